"""Checks of what is stored: model and data, recall, damage, settings that say something else."""

from index.calibration import Calibration
from index.plan import plain
from index.two_pass import MIN_ROWS
from server.budget import budget_of, wish_of
from server.doctor.checks import Check, Health, mib
from server.doctor.subject import Data, Subject
from server.encoders.fingerprint import Fingerprint
from server.encoders.known import prefix_warnings
from server.memory import limit_bytes, room
from server.recall_history import told_point, total

POOR_RECALL = 0.9
"""Below it one of ten neighbours is missed: something is wrong, not only tight."""

SLACK = 0.01  # by which recall may stay below the target, which was measured on other queries

MAX_NAMED = 5  # documents


def check_model(subject: Subject) -> Check:
    """Did the model that serves make the stored vectors?"""
    data = subject.data
    if data is None:
        return Check("model", Health.OK, "nothing is stored yet")
    made_by = data.made_by
    if made_by.model == "none":
        found = f"clients bring vectors of {data.dim} dimensions"
    else:
        found = f"{made_by.model} ({made_by.precision}), {data.dim} dimensions, made the vectors"
    if subject.is_encoder_down:
        advice = (
            "Start the program at encoder.url. Documents that come meanwhile are accepted and encoded later."
        )
        return Check("model", Health.FAIL, f"{found}; the program that encodes is down", advice)
    if not subject.is_served:
        model, dim = data.encoder.model, data.encoder.dim
        if (made_by.model == "none") is not (model == "none"):
            return _other_model(found, f"encoder.model is {model!r}", made_by)
        if dim not in (None, data.dim):
            return _other_model(found, f"encoder.dim is {dim}", made_by)
        return Check(
            "model", Health.OK, f"{found}; whether it is unchanged is compared when the server starts"
        )
    if subject.serving is not None and not made_by.same_vectors(subject.serving):
        changed = ", ".join(made_by.changes(subject.serving))
        return _other_model(found, f"{subject.serving.model} serves, which differs in {changed}", made_by)
    return Check("model", Health.OK, found if subject.serving is None else f"{found}, and serves")


def check_recall(subject: Subject) -> Check:
    """How many of the true nearest are found, by the newest measurements?"""
    data = subject.data
    if data is None or data.n_live < MIN_ROWS:
        return Check(
            "recall", Health.OK, f"below {MIN_ROWS:,} passages every one is compared, which misses nothing"
        )
    calibration = Calibration.from_evidence(data.evidence)
    target = subject.settings.index.target_recall
    if calibration is None:
        advice = "Run `twopass rebuild --wait`, or wait: the server makes a first pass by itself."
        return Check("recall", Health.WARN, "nothing was measured yet", advice)
    oversample = max(subject.settings.index.oversample, calibration.oversample)
    measured = calibration.recall_at(oversample) or 0.0
    found = (
        f"{measured:.3f} of the true 10 nearest were among {oversample:g} candidates a hit when the first pass was "
        f"made, over {data.evidence.get('rows', 0):,} passages; wanted are {target:g}"
    )
    worst = measured
    live = [each for each in subject.measured if each.source == "gauge"]
    evaluations = [each for each in subject.measured if each.source == "evaluation"]
    for what, points in (("Live searches", live), ("An evaluation", evaluations[-1:])):
        if points:
            told = told_point(total(points))
            pool = told["pool_recall"]
            found += (
                f". {what}: {pool['mean']:.3f} ({pool['low']:.3f} to {pool['high']:.3f}), "
                f"{told['searches']:,} looked at, on {told['ended_at'][:10]}"
            )
            worst = min(worst, pool["high"] + SLACK)
    if worst >= target:
        return Check("recall", Health.OK, found)
    advice = (
        "Give the codes more memory (index.memory_budget), raise index.oversample, or leave index.codec, order and "
        "prefix_dim to the server (auto). `twopass evaluate` shows what each would bring."
    )
    return Check("recall", Health.FAIL if worst < POOR_RECALL else Health.WARN, found, advice)


def check_damage(subject: Subject) -> Check:
    """Are all vectors there?"""
    data = subject.data
    n_damaged, lost = (data.n_damaged, data.lost) if data else (0, [])
    looked = "the newest vectors, and those that an earlier start found damaged"
    if not n_damaged and not lost:
        return Check("damage", Health.OK, f"none among {looked}; `twopass verify` reads everything")
    found = f"{n_damaged:,} vectors are missing or damaged, of {looked}"
    if lost:
        named = ", ".join(repr(each) for each in lost[:MAX_NAMED])
        more = f" and {len(lost) - MAX_NAMED:,} more" if len(lost) > MAX_NAMED else ""
        advice = (
            f"Send these documents again, or delete them: only their sender has the vectors: {named}{more}."
        )
        return Check("damage", Health.FAIL, f"{found}; {len(lost):,} of them came from clients", advice)
    advice = (
        "They are being made again from their texts; look again later."
        if subject.is_served
        else "Start the server: it makes them again from their texts."
    )
    return Check("damage", Health.WARN, found, advice)


def check_settings(subject: Subject) -> Check:
    """Do the settings say something that isn't so, or isn't wise here?"""
    settings, data = subject.settings, subject.data
    stale = []
    budget, limit = int(settings.index.memory_budget), limit_bytes()
    if budget > limit // 2:
        stale.append(
            f"index.memory_budget is {mib(budget)}, more than half of the {mib(limit)} there are: "
            "lower it or set it to 0"
        )
    if data is not None:
        stale += _stale_for(data, subject)
    if not stale:
        return Check("settings", Health.OK, "they agree with the data")
    return Check("settings", Health.WARN, f"{len(stale)} to look at", "; ".join(stale) + ".")


def _stale_for(data: Data, subject: Subject) -> list[str]:
    index = subject.settings.index
    stale = []
    if data.is_superseded:
        stale.append(
            f"the model was changed by re-embedding, and encoder.model still names the one before: set it to "
            f"{data.encoder.model}"
        )
    if index.vector_dtype != data.vector_dtype:
        stale.append(
            f"index.vector_dtype is {index.vector_dtype}, and the stored vectors are {data.vector_dtype}: that holds "
            "until they are encoded anew, so set it to what they are"
        )
    wish = wish_of(index, data.prefix_dim, budget_of(index, room(), 0))
    if data.n_live >= MIN_ROWS and data.evidence.get("wish") != wish.told():
        stale.append(
            "the first pass was made for other settings under index: the server makes it anew in the background after "
            "a start; GET /jobs shows whether it does"
        )
    if (
        data.n_rows >= MIN_ROWS
        and data.plan != plain(data.prefix_dim)
        and not wish.has_room(data.plan, data.n_rows)
    ):
        stale.append(
            f"the codes take {mib(data.n_rows * data.plan.row_bytes)}, more than index.memory_budget: they are made "
            "leaner where there is a leaner form"
        )
    stale += [
        each.rstrip(".")
        for each in prefix_warnings(data.made_by.model, data.dim, data.prefix_dim, index.order)
    ]
    return stale


def _other_model(found: str, now: str, made_by: Fingerprint) -> Check:
    needed = f"encoder.model to {made_by.model}"
    if made_by.model == "none":
        needed += f" and encoder.dim to {made_by.dim}"
    advice = f"To go on with this data set {needed}; to change the model for good, `twopass reembed`."
    return Check("model", Health.FAIL, f"{found}; {now}", advice)
