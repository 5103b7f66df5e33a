"""Tables of the small measurements, from their result files."""

from statistics import median

from experiments.common import timing
from experiments.common.rival_tables import Result, brief, lines, result_of


def accelerator() -> str:
    """Of each level what it takes, and what half precision changes in it."""
    result = result_of("accelerator_cpu")
    settings = result["settings"]
    took = {(row["level"], row["dtype"], row["batch"]): 1e3 * median(row["seconds"]) / row["batch"]
            for row in result["levels"]}  # fmt: skip
    columns = [("float32", batch) for batch in settings["batches"]]
    columns += [("bfloat16", batch) for batch in settings["half_batches"]]
    header = ["level", *(f"{dtype}, batch {batch}" for dtype, batch in columns),
              "bfloat16 changes", "distance to the top"]  # fmt: skip
    rows = []
    for own in result["half_precision"]["evaluations"]:
        each = (took.get((own["level"], *column)) for column in columns)
        rows.append([str(own["level"]), *("-" if ms is None else f"{ms:.2f} ms" for ms in each),
                     brief(own["of_half_precision"]),
                     brief(own["distance_to_top"]) if own["distance_to_top"] else "-"])  # fmt: skip
    scan = result["executors"]["ratio_to_floor"]["scan"]["median"]
    learning = result["learning"]["ratio_to_plain"]["learning, 1 tangent"]["median"]
    return (
        lines(header, rows) + f"\n\nMilliseconds a picture; mean squares; {result['machine']}. "
        f"A fitted plan for a budget of {settings['budget']:g}\ntakes {scan:.2f} times the sum of "
        f"its evaluations, a step of learning {learning:.1f} times a run, and\nthe top is trained "
        f"on {result['training']['images_per_second']:.0f} pictures a second."
    )


def floor() -> str:
    """What `solve` takes over the sum of its evaluations, and the time to a first sample."""
    result = result_of("floor_cpu")
    kinds = ("scan", "scan, nothing remembered", "segments")
    rows = []
    for row in result["rows"]:
        ratios = (row["ratio_to_floor"][kind] for kind in kinds)
        rows.append([f"{row['budget']:g}", str(row["steps"]), *map(timing.told, ratios)])
    starts = {
        name: sum(median([each[part] for each in own]) for part in own[0] if "second" not in part)
        for name, own in result["first_sample"].items()
    }
    return (
        lines(["budget", "steps", *kinds], rows) + "\n\nMedian of paired runs, in brackets least "
        f"and most; {result['machine']}. From `import` to the first\nsample it takes "
        f"{starts['no cache']:.0f} s without JAX's cache of compiled programs, "
        f"{starts['the cache of the last run']:.0f} s with the one of the last run."
    )


def rounds() -> str:
    """How often each level is called and for how many samples, where every sample has a plan."""
    result = result_of("rounds")
    images, pool = result["settings"]["images"], result["settings"]["pool"]
    rows = []
    for row in result["rows"]:
        own, larger = row["calls"]["in rounds"], row["calls"][f"in rounds, {images} of {pool}"]
        ratios = (row["ratio_to_rounds"][kind]
                  for kind in ("one after the other", "all under one plan"))  # fmt: skip
        evaluations = " ".join(map(str, row["evaluations"]))
        rows.append(
            [row["draw"], evaluations, called(own), called(larger), *map(timing.told, ratios)]
        )
    header = ["draw", "evaluations", f"calls in rounds, {images} samples",
              f"calls in rounds, {images} of {pool} at a time", "time one after the other",
              "time all under one plan"]  # fmt: skip
    return lines(header, rows)


def called(own: Result) -> str:
    """Calls of each level, with the mean batch of a call."""
    pairs = zip(own["calls"], own["mean_batch"], strict=True)
    return ", ".join(f"{calls} of {batch:.0f}" for calls, batch in pairs)


def faults() -> str:
    """Of each fault how often it was tried, and what became of what was kept."""
    rows = result_of("faults")["rows"]
    found = []
    for fault in dict.fromkeys(row["fault"] for row in rows):
        own = [row for row in rows if row["fault"] == fault]
        sums = (str(sum(row[name] for row in own)) for name in ("tried", "held", "lost"))
        found.append([fault, ", ".join(dict.fromkeys(row["to"] for row in own)), *sums])
    return lines(["fault", "to", "tried", "held", "lost"], found)
