"""The list of mutants, and files in which all of them are planted and none runs."""

import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).parent / "mutants.toml"
HEADER = "verify/selftest/mutation/mutant.hpp"
KINDS = ("expression", "statement", "text")


class BadList(Exception):
    """mutants.toml holds something that cannot be planted."""


@dataclass(frozen=True)
class Mutant:
    """One planted fault. mutants.toml explains its fields."""

    number: int  # from 1
    name: str
    file: str
    code: str
    mutated: str
    kind: str = "expression"
    first: str = ""
    equivalent: str = ""


def read(path: Path = LIST) -> list[Mutant]:
    """All mutants, in the order of the list."""
    with path.open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    mutants = [Mutant(number, **entry) for number, entry in enumerate(entries, 1)]
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if names.count(mutant.name) > 1:
            raise BadList(f"name: '{mutant.name}' twice")
        if mutant.kind not in KINDS:
            raise BadList(f"kind: '{mutant.kind}' of '{mutant.name}' is none of {', '.join(KINDS)}")
    return mutants


def switch(code: str, mutants: list[Mutant]) -> str:
    """The code where these mutants are planted in it."""
    for mutant in mutants:
        runs = f"attnspec_mutant({mutant.number})"
        if mutant.kind == "text":
            code = mutant.mutated.replace("MUTANT", runs)
        elif mutant.kind == "statement":
            code = f"{{ if ({runs}) {{ {mutant.mutated} }} else {{ {code} }} }}"
        else:
            code = f"({runs} ? ({mutant.mutated}) : ({code}))"
    return code


def planted(file: str, text: str, mutants: list[Mutant]) -> str:
    """The text of a file with its mutants planted. Mutants of the same code share a place."""
    places: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        if (times := text.count(mutant.code)) != 1:
            raise BadList(f"code: '{mutant.code}' of '{mutant.name}' stands {times} times in {file}, not once")
        places[mutant.code].append(mutant)
    result, end = f'#include "{HEADER}"\n', 0
    for code, of_place in sorted(places.items(), key=lambda place: text.index(place[0])):
        begin = text.index(code)
        if begin < end:
            raise BadList(f"code: '{code}' of '{of_place[0].name}' overlaps another mutant's in {file}")
        result += text[end:begin] + switch(code, of_place)
        end = begin + len(code)
    return result + text[end:]
