"""What a run has measured so far, as a file: begun, continued by a later run of the same programs on the same machine, and
kept after each measurement. It knows neither processes nor pages."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FORMAT = 2
Raw = dict[str, Any]
Key = tuple[int, str, str, str]  # round, workload, client, server


class Refused(Exception):
    """Why results cannot be continued."""


def key_of(sample: Mapping[str, Any]) -> Key:
    return sample["round"], sample["workload"], sample["client"], sample["server"]


def measured(raw: Raw) -> set[Key]:
    """What need not be measured again. What failed is measured again, and is told all the same."""
    return {key_of(sample) for sample in raw["samples"] if not sample.get("failure")}


def has_growth(raw: Raw) -> bool:
    """Whether the growth of costs need not be measured again."""
    return "series" in raw.get("growth", {})


def read(file: Path) -> Raw:
    try:
        raw = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"{file} cannot be read: {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise Refused(f"{file} has another format than {FORMAT}: measure anew, into another file")
    return raw


def joined(old: Raw, new: Raw) -> Raw:
    """The old results, to be gone on with. What was measured of other programs, on another machine or in another way is
    refused; programs that only one of the two has are no difference."""
    for name, what in (("quick", "--quick"), ("transport", "the transport"), ("machine", "the machine")):
        if old[name] != new[name]:
            raise Refused(f"{what} is {told(new[name])} and was {told(old[name])}")
    others = [
        f"{name} is {version} and was {old['versions'][name]}"
        for name, version in new["versions"].items()
        if old["versions"].get(name, version) != version
    ]
    if others:
        raise Refused(f"other programs than those that were measured: {'; '.join(others)}")
    return old | {
        "rounds": max(old["rounds"], new["rounds"]),
        "versions": old["versions"] | new["versions"],
        # Who was measured in one part is not absent because the other part had no need of it.
        "absent": {program: why for program, why in old["absent"].items() if program in new["absent"]},
        "parts": [*old["parts"], *new["parts"]],
    }


def told(value: object) -> str:
    return ", ".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)


def drop(raw: Raw, selected: Callable[[Key], bool]) -> int:
    """Forgets those measurements, also failed ones; how many there were."""
    before = len(raw["samples"])
    raw["samples"] = [sample for sample in raw["samples"] if not selected(key_of(sample))]
    return before - len(raw["samples"])


def keep(raw: Raw, file: Path | None) -> None:
    """Written whole or not at all, one measurement a line."""
    if file is None:
        return
    lines = [
        f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in raw.items() if name != "samples"
    ]
    samples = ",".join(f"\n  {json.dumps(sample, ensure_ascii=False)}" for sample in raw["samples"])
    beside = file.with_name(file.name + ".new")
    beside.write_text("{\n" + ",\n".join([*lines, f' "samples": [{samples}]']) + "\n}\n")
    beside.replace(file)
