"""Questions and passages as people have them, on which runtimes of an embedder are compared."""

from __future__ import annotations

QUESTIONS = (
    "How long may goods be returned after they were delivered?",
    "Which rivers flow through the north of Italy?",
    "Why does bread rise, and what happens when the dough rests for too short a time?",
    "What is the difference between a lease and a licence?",
    "Who has to sign the report before it is sent to the customer?",
    "Does vitamin D lower the risk of infections of the airways in elderly people in winter?",
)
PASSAGES = (
    "The Po rises in the Cottian Alps at the foot of Monte Viso and flows eastwards through the "
    "plain that is named after it, past Turin, Piacenza and Cremona, until it enters the Adriatic "
    "in a delta of several arms. It takes in water from the glaciers of the Alps on its left bank "
    "and from the Apennines on its right one, so its level changes with the seasons: it is highest "
    "in late spring, when the snow melts, and in autumn, when it rains. Dams and dykes protect the "
    "fields along the river, which are among the most fertile ones of the country.",
    "A customer may return goods within thirty days of delivery if they are unused and in their "
    "original packaging. The return is announced on the page of the order, which prints a label "
    "for the parcel; goods that are sent back without a label cannot be assigned to an order. The "
    "price is paid back within ten working days after the goods have arrived in the warehouse and "
    "were examined, in the same way in which it was paid. Costs of delivery are paid back only if "
    "the whole order is returned. Food, cosmetics and software with a broken seal are excluded.",
    "Bread rises because yeast turns sugar into carbon dioxide and alcohol. The gas is held by "
    "gluten, a net of proteins that forms when flour and water are kneaded. A dough that rests for "
    "too short a time has a dense crumb and tears at its sides in the oven; a dough that rests too "
    "long loses its tension and becomes flat. Warmth makes the yeast work faster, but a slow rise "
    "in the cold gives more taste, since enzymes and bacteria have the time to form acids. Salt "
    "slows the yeast down and makes the gluten stronger, and sugar feeds it up to a point.",
    "We enrolled 412 adults over the age of 65 in nursing homes and gave them either vitamin D or "
    "a placebo, once a day from October to March. Neither the residents nor their nurses knew who "
    "received which. The number of infections of the upper airways was 0.61 in a person and season "
    "with vitamin D, and 0.79 without it; the difference was larger in those whose level had been "
    "low in the beginning. The two groups did not differ in the number of pneumonias, falls or "
    "stays in hospital. Side effects were rare and mild, and equally frequent in both groups.",
)
