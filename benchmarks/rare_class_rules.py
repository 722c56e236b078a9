"""What the rare-class study concludes from its measurements: pure functions of two tables.

`points` has a row per measured class: dataset, limits, label, n (train images of the class), method, kimg, and kid,
kid_low, kid_high, copies, seconds and so on; `gains` a row per method and class: by how much F1 changes when its images
are added to balanced sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

VETO = 0.05  # largest share of near-copies of train images with which a setting remains
CASE = ["dataset", "limits", "label"]
RULE = (
    "Methods are ranked by KID within each case (a class at its number of train images) and length, and by their mean "
    "rank over those that all of them have; the default is the best of the finalists' settings, a method and a length, "
    f"ranked within each case. Near-copies of train images above {VETO:.0%} in any of these, or a training that diverged, "
    "rule a setting out; of equals the one that trains faster is before."
)


def leaderboard(points: pd.DataFrame, by: str = "method") -> pd.DataFrame:
    """Methods (`by` "method") or methods at their lengths ("setting"), best first.

    Columns: `by`, rank (mean over the cases that all have), cases, copies (the largest), seconds, vetoed.

    Cases judged against train images (`held_out` false) do not count: copying them would win. A missing KID is
    the worst. Vetoed settings come last. Empty when there is no case that all settings have.
    """
    columns = [by, "rank", "cases", "copies", "seconds", "vetoed"]
    judged = points[points["held_out"].astype(bool)]
    if judged.empty:
        return pd.DataFrame(columns=columns)
    units = CASE if by == "setting" else [*CASE, "kimg"]
    judged = judged.assign(kid=judged["kid"].fillna(np.inf), failed=judged["failed"].notna())
    kid = judged.pivot_table(index=units, columns=by, values="kid", aggfunc="mean", sort=True).dropna()
    if kid.empty:
        return pd.DataFrame(columns=columns)
    shared = judged.set_index(units).loc[kid.index].groupby(by)
    table = pd.DataFrame(
        {
            "rank": kid.rank(axis=1).mean(),
            "cases": len(kid),
            "copies": shared["copies"].max(),
            "seconds": shared["seconds"].mean(),
            "vetoed": (shared["copies"].max() > VETO) | shared["failed"].any(),
        }
    )
    table = table.rename_axis(by).reset_index().sort_values(["vetoed", "rank", "seconds", by])
    return table[columns].reset_index(drop=True)


def best(points: pd.DataFrame, number: int) -> list[str]:
    """The methods that remain, best first, at most `number`."""
    table = leaderboard(points)
    return table.loc[~table["vetoed"].astype(bool), "method"].head(number).tolist()


def best_sentence(
    points: pd.DataFrame, finalists: Sequence[str], lengths: Sequence[float], default: bool = True
) -> str:
    """The best of the finalists' settings, each a method and a length: the `default` that follows, or who is ahead."""
    rows = points[points["method"].isin(finalists) & points["kimg"].isin(lengths)]
    rows = rows.assign(setting=rows["method"] + rows["kimg"].map(", {:g} kimg".format))
    board = leaderboard(rows, by="setting")
    if board.empty or board["vetoed"].all():
        lead = "No default follows" if default else "None is ahead"
        return f"{lead}: no setting remains that was measured on held-out images and does not copy."
    first = board.iloc[0]
    others = [f"{row['setting']} {row['rank']:.2f}" for row in board.iloc[1:].to_dict("records")]
    sentence = (
        f"{'The default that follows' if default else 'Ahead'} is {first['setting']}: mean rank {first['rank']:.2f} over {first['cases']} "
        f"{'case' if first['cases'] == 1 else 'cases'} that all settings have"
    )
    sentence += f" ({', '.join(others)})" if others else ""
    rivals = _not_told_apart(rows, str(first["setting"]))
    sentence += f"; KID intervals overlap in every case with {', '.join(rivals)}" if rivals else ""
    return sentence + "."


def _not_told_apart(rows: pd.DataFrame, setting: str) -> list[str]:
    """Other settings whose KID interval overlaps that of `setting` in every case that both have."""
    columns = [*CASE, "kid_low", "kid_high"]
    own = rows.loc[rows["setting"] == setting, columns]
    found = []
    for name, other in rows[rows["setting"] != setting].groupby("setting"):
        both = other[columns].merge(own, on=CASE, suffixes=("", "_own")).dropna()
        overlap = (both["kid_low"] <= both["kid_high_own"]) & (both["kid_low_own"] <= both["kid_high"])
        if len(both) and overlap.all():
            found.append(str(name))
    return found


def markdown(
    title: str,
    points: pd.DataFrame,
    gains: pd.DataFrame,
    refused: Sequence[tuple[str, str]],
    about: Sequence[str],
    conclusion: str,
) -> str:
    """The page with all of it; every figure comes from the tables."""
    parts = [f"# {title}", *about, RULE, f"**{conclusion}**"]
    for (dataset, limits), rows in points.groupby(["dataset", "limits"], sort=False):
        parts += [f"## {dataset}, train images limited to {limits}", _measures(rows)]
        of_case = gains[(gains["dataset"] == dataset) & (gains["limits"] == limits)]
        if len(of_case):
            parts.append(_gains(of_case))
    if refused:
        parts += [
            "## Not measured",
            "\n".join(f"- {name}: {reason}" for name, reason in dict(refused).items()),
        ]
    return "\n\n".join(parts) + "\n"


def _measures(rows: pd.DataFrame) -> str:
    lines = [
        "| class | method | kimg | KID (95 %) | | real-vs-real | coverage (real) | near-copies (real) | taken for the class (real) | gate | training, processor min |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, kimg), unit in rows.sort_values(["label", "kimg", "kid"]).groupby(["label", "kimg"]):
        top = unit.iloc[0]
        for i, row in enumerate(unit.to_dict("records")):
            if row["failed"]:
                lines.append(f"| {label} | {row['method']} | {kimg:g} | {row['failed']} | | | | | | | |")
                continue
            near = "best" if i == 0 else "≈ best" if row["kid_low"] <= top["kid_high"] else ""
            near += "" if row["held_out"] else " (against train images too: not ranked)"
            lines.append(
                f"| {label} | {row['method']} | {kimg:g} | {_number(row['kid'])} "
                f"({_number(row['kid_low'])} to {_number(row['kid_high'])}) | {near} | {_number(row['kid_real'], 4)} | "
                f"{_beside(row, 'coverage')} | {_beside(row, 'copies')} | {_beside(row, 'agreement')} | "
                f"{row['verdict']} | {_number(row['seconds'] / 60, 1)} |"
            )
    return "\n".join(lines)


def _gains(rows: pd.DataFrame) -> str:
    lines = [
        "| what | method | kimg | balanced sampling | with synthetic images added | difference (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['method']} | {row['kimg']:g} | {row['without']:.3f} | {row['with']:.3f} | "
        f"{row['delta']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) |"
        for row in rows.sort_values(["what", "kimg", "delta"], ascending=[True, True, False]).to_dict(
            "records"
        )
    ]
    return "\n".join(lines)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _beside(row: dict, name: str) -> str:
    return f"{_number(row[name], 2)} ({_number(row[name + '_real'], 2)})"
