"""What the metrics of a class mean for its verdict, by the rules: a level and a sentence each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from scipy import stats

from balancer.quality import kid
from balancer.quality.copies import Copies
from balancer.quality.metrics import Metric, entry, share_interval
from balancer.quality.reference import RealClass, Rules

SEVERITY = ("pass", "warn", "insufficient-data", "fail")

Finding = tuple[str, str]  # one of SEVERITY, and a sentence


def on_distance(
    found: Metric, n: int, real: RealClass, classes: Mapping[str, RealClass], rules: Rules
) -> Finding:
    """KID of n synthetic images against a margin: a share of the KID to the nearest other class, which `found` gains
    as `margin`."""
    rule = rules["kid"]
    value, ci = found["value"], found["ci"]
    others = {
        other.label: kid.compute(real.pool.features, other.pool.features)
        for other in classes.values()
        if other.label != real.label and len(other.pool) >= rules["sizes"]["fewest_real"]
    }
    if not others or min(others.values()) <= 0:
        why = "no other real class to set the margin by" if not others else "the classes cannot be told apart"
        return "insufficient-data", f"KID {value:.2g} cannot be judged: {why} in these features."
    nearest = min(others, key=others.__getitem__)
    margin = found["margin"] = rule["margin"] * others[nearest]
    digits = kid.decimals(margin)
    level = kid.decide(ci, margin)
    lies = {
        "fail": "lies above",
        "insufficient-data": "is less certain than",
        "pass": "lies below",
        "warn": "lies across",
    }
    sentence = (
        f"KID {value:.{digits}f} [{ci[0]:.{digits}f}, {ci[1]:.{digits}f}] {lies[level]} the margin {margin:.{digits}f}, "
        f"{rule['margin']:g} of the KID between real {real.label} and {nearest}, the nearest class"
    )
    if level == "insufficient-data":
        sentence += f": {len(real.reference)} real and {n} synthetic images are too few to decide"
    return level, f"{sentence}."


def on_copies(found: Copies, among_real: Copies, held_out: bool, rules: Rules) -> tuple[Metric, Finding]:
    """The share of copies against that among real images, by Fisher's exact test, and against the rules' share."""
    rule = rules["copies"]
    count, total, of_real = found.count, len(found.reasons), len(among_real.reasons)
    ci = share_interval(count, total, rule["confidence"])
    real_ci = share_interval(among_real.count, of_real, rule["confidence"])
    which = "held-out images" if held_out else "train images, one half sought in the other"
    what = "a train or held-out image" if held_out else "a train image"
    metric = entry(
        count / total,
        f"Share of candidates that copy {what}, turned, moved or scaled or not; beside it the share among {of_real} real "
        f"{which}.",
        ci=ci,
        real_vs_real=among_real.count / of_real,
        real_vs_real_ci=real_ci,
    )
    sentence = f"{count} of {total} candidates copy {what}, of {of_real} real {which} {among_real.count}"
    p = stats.fisher_exact(
        [[count, total - count], [among_real.count, of_real - among_real.count]], alternative="greater"
    ).pvalue
    if p < rule["level"]:
        return metric, (
            "fail",
            f"{sentence}: more than chance makes of it (Fisher's exact test, p = {p:.1g}).",
        )
    if ci[0] > rule["fail_share"] >= real_ci[0]:
        return metric, ("fail", f"{sentence}: more than the {rule['fail_share']:.0%} that are allowed for.")
    return metric, ("pass", f"{sentence}.")


def kind_of(reason: str) -> str:
    """What a reason to reject an image has in common with those of others: its first clause, without names and brackets."""
    reason = re.sub(r"\s*[(\[].*?[)\]]", "", re.sub(r"((?:train|held-out) image) .*", r"\1", reason))
    return re.split(r"[,:;]", reason)[0].strip()


def on_acceptance(found: Metric, rejected: Sequence[str | None], rules: Rules) -> Finding:
    """The share that the checks image by image let through, against that of real images; where none were held out for
    this, all of them count as let through, and nothing is warned of."""
    real = 1.0 if found["real_vs_real"] is None else found["real_vs_real"]
    lowest = 0.0 if found["real_vs_real_ci"] is None else found["real_vs_real_ci"][0]
    sentence = f"{found['value']:.0%} of the candidates get through the checks image by image"
    sentence += f", of real images {real:.0%}" if found["real_vs_real"] is not None else ""
    kinds = Counter(kind_of(reason) for reason in rejected if reason is not None)
    if kinds:
        most = ", ".join(
            f"{kind} ({n})" for kind, n in sorted(kinds.items(), key=lambda k: (-k[1], k[0]))[:3]
        )
        sentence += f"; rejected most often for: {most}"
    one_sided = 2 * rules["sizes"]["confidence"] - 1
    high = share_interval(rejected.count(None), len(rejected), one_sided)[1]
    share = rules["acceptance"]["fail_share_of_real"]
    if high < share * real:
        return "fail", f"{sentence}. That is less than {share:g} times as many."
    return "warn" if high < lowest else "pass", f"{sentence}."


def on_collapse(metrics: Mapping[str, Metric], rules: Rules) -> list[Finding]:
    """Coverage, Vendi score and repeats against what real samples of the same sizes score."""
    rule = rules["collapse"]
    findings = []
    for name, what in (("coverage", "Coverage"), ("vendi", "The effective number of modes (Vendi)")):
        found = metrics[name]
        if found["value"] is None:
            continue
        low, high = found["real_vs_real_ci"]
        digits = 2 if name == "coverage" else 1
        sentence = (
            f"{what} is {found['value']:.{digits}f}, of real samples of the same size {found['real_vs_real']:.{digits}f} "
            f"[{low:.{digits}f}, {high:.{digits}f}]"
        )
        if found["value"] < rule["fail_share_of_real"] * low:
            findings.append(("fail", f"{sentence}: less than {rule['fail_share_of_real']:g} of that."))
        else:
            findings.append(("warn" if found["value"] < low else "pass", f"{sentence}."))
    found = metrics["repeats"]
    high = found["real_vs_real_ci"][1]
    sentence = (
        f"{found['value']:.0%} of the candidates nearly repeat another one; of {found['size']} drawn "
        f"{found['at_size']:.0%} do, of as many real images {found['real_vs_real']:.0%}"
    )
    if found["ci"][0] > max(rule["fail_repeats"], high):
        return [*findings, ("fail", f"{sentence}: most of the set is repetition.")]
    return [*findings, ("warn" if found["at_size_ci"][0] > high else "pass", f"{sentence}.")]


def on_labels(found: Metric, label: str, rules: Rules) -> Finding:
    """The share that a linear probe takes for the class against that of its real images."""
    least = rules["label_agreement"]["fail_share_of_recall"]
    if found["value"] is None:
        return "warn", found["note"]
    own, high = found["real_vs_real"], found["ci"][1]
    sentence = f"{found['value']:.0%} of the candidates are taken for {label} by a linear probe, of its real images {own:.0%}"
    if high < least * own:
        return "fail", f"{sentence}: less than {least:g} times as often."
    return ("warn" if high < found["real_vs_real_ci"][0] else "pass"), f"{sentence}."
