"""The language of free text: by hand, against every path there is, and its error as measured."""

import itertools
import math
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, entropy

from hybridlib.store.errors import ParameterError
from hybridlib.tasks import language
from hybridlib.tasks.language import (
    identifier_error,
    language_measures,
    line_entropy,
    word_languages,
)

EN = "We walked along the river until it got dark."
ES = "Caminamos junto al río hasta que se hizo de noche."


def spoken(text: str) -> list[str]:
    return [name for _, name in word_languages(text)]


@pytest.mark.parametrize(
    "text, target, share, off, switches",
    [
        (EN, "en", 1, 0, 0),
        (EN, "es", 0, 1, 0),
        (ES, "es", 1, 0, 0),
        (f"{EN} {ES}", "en", 9 / 19, 1, 100 / 19),
        (f"{EN} {ES} The soup needs salt.", "es", 10 / 23, 1, 200 / 23),
        ("I think that mañana va a llover mucho", "en", 3 / 8, 1, 100 / 8),
        ("", "en", math.nan, math.nan, math.nan),
        ("12 + 30 = 42", "en", math.nan, math.nan, math.nan),
        ("Yes, please.", "en", math.nan, math.nan, math.nan),
        (f"{ES} Ok.", "es", 1, 0, 0),  # two segments, the second too short
    ],
)
def test_measures_by_hand(text, target, share, off, switches):
    expected = {
        "target_language_share": share, "off_language": off,
        "switches_per_100_words": switches, "repetition": 0,
    }  # fmt: skip
    assert language_measures(text, target) == pytest.approx(expected, nan_ok=True)


def test_the_keys_are_those_of_the_exact_measures():
    from hybridlib.tasks import oracle

    assert list(language_measures(EN, "en")) == list(oracle.language_measures(EN, "en"))


@pytest.mark.parametrize("text", ["a b c d a b c d", "so it is so it is so it is", EN])
def test_repetition_is_that_of_the_exact_measures(text):
    from hybridlib.tasks import oracle

    exact = oracle.language_measures(text, "en")["repetition"]
    assert language_measures(text, "en")["repetition"] == pytest.approx(exact)


@pytest.mark.parametrize(
    "noise",
    [
        "<think>", "</answer>", "`el perro y la casa`", "```\nel perro come la comida\n```",
        "$el = la + los$", "$$\nel = la + los\n$$",
        r"\(el perro\)", r"\[el perro come\]", r"\begin{align}el &= la\end{align}",
        r"\textbf{la casa}", "https://el.perro/come/la/comida", "perro@casa.es", "3.14", "x2",
    ],
)  # fmt: skip
def test_what_is_no_prose_counts_for_nothing(noise):
    assert word_languages(f"We walked along {noise} the river.") == word_languages(
        "We walked along the river."
    )


def test_code_that_was_cut_off_reaches_to_the_end():
    assert word_languages(f"{EN}\n```python\nel perro come la comida") == word_languages(EN)


def test_prices_are_no_latex():
    words = [word for word, _ in word_languages("It costs $5 and the other one costs $6 today.")]
    assert words == "It costs and the other one costs today".split()


def test_names_count_for_no_language():
    words = dict(word_languages("El cartero vive en Baker Street con mucha gente."))
    assert words["Baker"] == words["Street"] == ""
    assert {words[w] for w in ("El", "vive", "gente")} == {"es"}


def test_accents_may_be_written_apart():
    assert spoken("El cami\u0301n esta\u0301 aqui\u0301.") == spoken("El camín está aquí.")


def test_a_path_is_the_best_of_all_paths():
    own, rng = 2, np.random.default_rng(0)  # of three languages
    for length in (*range(1, 8), *[5] * 40):
        scores = rng.random((length, 3)) * 2

        def worth(path, scores=scores):
            switches = sum(a != b for a, b in itertools.pairwise(path))
            entries = sum(b >= own and a != b for a, b in itertools.pairwise([None, *path]))
            costs = language.SWITCH_COST * switches + language.ENTRY_COST * entries
            return scores[range(len(path)), path].sum() - costs

        best = max(itertools.product(range(3), repeat=length), key=worth)
        assert language._best_path(scores, own) == list(best)


def test_other_languages_can_be_asked_for():
    measures = language_measures("Nous avons marché le long de la rivière.", "fr", ("en", "fr"))
    assert measures["target_language_share"] == 1


@pytest.mark.parametrize(
    "target, languages, said",
    [("fr", ("en", "es"), "language 'fr' is not one of en, es"),
     ("en", ("en", "xx"), "language 'xx' is not known to eldc"),
     ("en", ("en", "zh"), "language 'zh' is not known to eldc in Latin letters")],
)  # fmt: skip
def test_a_language_that_cannot_be_is_named(target, languages, said):
    with pytest.raises(ParameterError, match=said):
        language_measures(EN, target, languages)


@pytest.fixture(scope="module")
def errors() -> pd.DataFrame:
    return identifier_error()


def test_the_labelled_lines_are_enough(errors):
    lines = errors[errors.kind != "word"].assign(all=lambda x: x.n + x.ignored)
    counts = lines.groupby("kind")["all"].sum()
    assert counts["sentence"] >= 60 and counts["fragment"] >= 60 and counts["chat"] >= 30
    assert counts["code_switched"] >= 30
    assert counts["other"] >= 50 and counts["script"] >= 25 and counts["mixed"] >= 20
    assert len(lines[lines.kind == "other"]) >= 15, "languages"


def test_the_error_of_the_identifier(errors):
    """A release of the identifier that is worse than the one in use must not pass unseen."""
    by_kind = errors.groupby("kind")[["n", "right"]].sum()
    share = by_kind.right / by_kind.n
    kinds = ["sentence", "fragment", "chat", "code_switched", "loanwords", "word"]
    assert (share[[*kinds, "other", "script", "mixed", "precision"]] >= 0.95).all()
    words = errors[errors.kind == "word"].set_index("language")
    assert (words.accuracy[["en", "es", "other", "all"]] >= 0.98).all()
    assert words.n["all"] == words.n[["en", "es", "other"]].sum()
    for row in errors.itertuples():
        exact = binomtest(row.right, row.n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high))


def test_the_error_is_an_error(tmp_path):
    """Labels turned round: nothing is right any more; short lines are ignored, not wrong."""
    path = tmp_path / "wrong.csv"
    path.write_text(
        "kind,language,text\n"
        f"sentence,es,{EN}\nsentence,en,{ES}\nsentence,en,{EN}\nsentence,en,Yes\n"
        f"mixed,es en,{EN} | {ES}\nmixed,en es,{EN} | {ES}\n",
        encoding="utf-8",
    )
    table = identifier_error(path).set_index(["kind", "language"])
    assert table.n.to_dict() == {
        ("sentence", "es"): 1, ("sentence", "en"): 2,
        ("mixed", "es en"): 1, ("mixed", "en es"): 1,
        ("word", "es"): 9 + 9 + 10, ("word", "en"): 10 + 9 + 10 + 9,
        ("word", "all"): 9 + 10 + 9 + 2 * 19,
    }  # fmt: skip
    assert table.right.to_list() == [0, 1, 0, 1, 10, 9 + 9, 9 + 19]
    assert table.ignored.to_list() == [0, 1, 0, 0, 0, 1, 1]


def test_the_costs_fit_the_lines_that_they_were_chosen_on():
    """Lines that languages.csv has not, so that its error is one of lines that nobody looked at."""
    chosen_on = Path(__file__).with_name("languages_chosen_on.csv")
    texts = [set(pd.read_csv(path).text) for path in (chosen_on, language.LABELLED)]
    assert not texts[0] & texts[1]
    found = identifier_error(chosen_on).query("kind != 'word'")
    assert found.right.sum() >= found.n.sum() - 1 and not found.ignored.any()


# ---- neither of the two

FOREIGN = (
    "我们沿着河走，直到天黑，然后回家，吃饭。", "我們沿著河走，直到天黑。",
    "川に沿って暗くなるまで歩きました。", "カタカナダケノブンショウ",
    "우리는 어두워질 때까지 강을 따라 걸었다.",
    "Мы шли вдоль реки, пока не стемнело.",
    "Ми йшли вздовж річки, поки не стемніло.", "Вървяхме край реката, докато се стъмни.",
    "مشينا على طول النهر حتى حل الظلام.", "در کنار رودخانه راه رفتیم تا هوا تاریک شد.",
    "ہم اندھیرا ہونے تک دریا کے کنارے چلتے رہے۔", "Περπατήσαμε κατά μήκος του ποταμού.",
    "हम अंधेरा होने तक नदी के किनारे चले।", "เราเดินไปตามแม่น้ำจนมืด", "ພວກເຮົາຍ່າງໄປຕາມແມ່ນ້ໍາ",
    "הלכנו לאורך הנהר עד שהחשיך.", "আমরা নদীর ধারে হাঁটলাম।", "நாங்கள் ஆற்றங்கரையில் நடந்தோம்.",
    "మేము నది వెంట నడిచాము.", "ჩვენ მდინარის გასწვრივ ვიარეთ.", "Մենք քայլեցինք գետի երկայնքով։",
    "በወንዙ ዳር እስኪጨልም ድረስ ተራመድን።", "យើងដើរតាមដងទន្លេ", "ကျွန်တော်တို့ မြစ်တစ်လျှောက် လမ်းလျှောက်ခဲ့တယ်။",
    "སྐད་ཡིག་གཞན་ཞིག", "ᎣᏏᏲ ᏙᎯᏧ ᎣᏍᏓ",
)  # fmt: skip
LATIN = (
    "Nous avons marché le long de la rivière jusqu'à la nuit.", "Je ne sais pas.",
    "Wir gingen am Fluss entlang, bis es dunkel wurde.", "Ich weiß es nicht.",
    "Abbiamo camminato lungo il fiume fino a quando si è fatto buio.",
    "Caminhamos ao longo do rio até escurecer.", "Muito obrigado pela ajuda.",
    "Vam caminar al llarg del riu fins que es va fer fosc.",
    "We liepen langs de rivier tot het donker werd.",
    "Szliśmy wzdłuż rzeki, aż zrobiło się ciemno.",
    "Vi gick längs floden tills det blev mörkt.", "Vi gik langs floden, indtil det blev mørkt.",
    "Kävelimme jokea pitkin, kunnes tuli pimeä.", "Hava kararana kadar nehir boyunca yürüdük.",
    "Chúng tôi đi dọc theo bờ sông cho đến khi trời tối.",
    "Kami berjalan menyusuri sungai sampai hari gelap.",
    "Am mers de-a lungul râului până s-a întunecat.",
    "Šli jsme podél řeky, dokud se nesetmělo.", "A folyó mentén sétáltunk, amíg be nem sötétedett.",
    "Naglakad kami sa tabi ng ilog hanggang sa dumilim.",
)  # fmt: skip


@pytest.mark.parametrize("text", [*FOREIGN, *LATIN])
def test_another_language_is_neither_of_the_two(text):
    for target in ("en", "es"):
        found = language_measures(text, target)
        assert (found["target_language_share"], found["off_language"]) == (0, 1)
        assert found["switches_per_100_words"] == 0


ROW = "So we compute the total 然后 我们 得到 答案 which is twelve apples in all."


@pytest.mark.parametrize(
    "text, share, switches",
    [
        (ROW, 11 / 19, 200 / 19),  # eight letters, each a word
        (ROW.replace("然后 我们 得到 答案", "然后我们得到答案"), 11 / 19, 200 / 19),
        ("So the答案is twelve apples.", 5 / 7, 200 / 7),  # no blanks between the scripts
        ("The word 好 means good in this town.", 7 / 8, 200 / 8),
        (f"{EN} Мы шли вдоль реки.", 9 / 13, 100 / 13),
        (f"{EN} {LATIN[0]}", 9 / 20, 100 / 20),
        (f"Wir gehen jetzt nach Hause. {EN}", 9 / 13, 100 / 14),
        ("The cаt sat on the mat.", 5 / 6, 200 / 6),  # a Cyrillic а
    ],
)
def test_text_in_two_languages_is_so_in_part(text, share, switches):
    found = language_measures(text, "en")
    assert found["target_language_share"] == pytest.approx(share)
    assert found["off_language"] == 1
    assert found["switches_per_100_words"] == pytest.approx(switches)


@pytest.mark.parametrize(
    "text, share",
    [("你好" * 10, 15 / 17), ("안녕" * 10, 15 / 17), ("さくら" * 10, 24 / 27), ("กข" * 10, 15 / 17),
     ("你好世界。", 0)],
)  # fmt: skip
def test_repetition_without_blanks(text, share):
    assert language_measures(text, "en")["repetition"] == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "The angle θ is the sum of α and β, Δt is in μs and ℵ0 is large.",
        "She weighs 50 kg, is 160 cm tall and drinks 20 ml.",
        "He said it’s fine, she can‘t, we donʼt.",
        "Please send 5€ to the café on Müller Straße – that’s all 😀👍🏽.",
        "_We_ walked **along** the `río` ~~river~~ and “talked” (a lot).",
        "x + y = z + w, so the sum is the same.",
        "Angela Merkel, Emmanuel Macron and Giorgia Meloni met in Bruxelles.",
    ],
)
def test_english_with_signs_symbols_and_names_is_english(text):
    found = language_measures(text, "en")
    assert (found["target_language_share"], found["off_language"]) == (1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "x + y = z",
        "7 kg 3 cm 2 ml",
        "好",
        "Привет",
        "xkjzq wvvqx zzkqj",
        "\u3164" * 3,
        "θ α β γ",
        "😀",
    ],
)
def test_what_tells_no_language_is_undefined(text):
    assert math.isnan(language_measures(text, "en")["target_language_share"])


WIDE = {i: i + 0xFEE0 for i in range(0x21, 0x7F)}


@pytest.mark.parametrize(
    "written",
    [EN.translate(WIDE), EN.replace("walked", "wal\u200bk\u00aded"), f"\ufeff{EN}",
     "".join(c + "\u0335" for c in EN), EN.replace("fl", "ﬂ"), EN.replace(" ", "\u00a0")],
)  # fmt: skip
def test_how_a_letter_is_written_says_nothing(written):
    assert [name for _, name in word_languages(written)] == ["en"] * 9


def test_signs_between_words_hide_no_language():
    """Two words a sentence are not too few to tell where there are many."""
    found = language_measures(f"{EN} vamos al. rio con. el perro. y la. vaca hoy.", "en")
    assert found["target_language_share"] == 9 / 19 and found["off_language"] == 1


def test_nothing_but_what_is_an_address_is_taken_for_one():
    assert spoken("请发邮件到a.b@x.com谢谢你们") == ["other"] * 9
    assert spoken("见https://x.com/a?b=1我们走吧") == ["other"] * 5


HOSTILE = {
    "letters": "a", "Chinese": "我", "dollars": "$", "ticks": "`", "tags": "<a",
    "beginnings": r"\begin{a}",
    "brackets": r"\(", "more brackets": r"\[", "dots": "a.", "at": "a@", "addresses": "a://",
    "apostrophes": "a'", "braces": r"\a{", "marks": "\u0301\u0316", "underscores": "_a",
    "blanks": " ",
    "fences": "```a", "words": "river ", "sentences": "a. ",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_reading_takes_linear_time(name):
    piece = HOSTILE[name]
    text = f"a{piece * (100_000 // len(piece))}9"
    start = time.perf_counter()
    language_measures(text, "en")
    language.bare(text)
    assert time.perf_counter() - start < 5


# ---- any text


@given(st.text(st.characters(), max_size=60) | st.lists(st.sampled_from(
    [*"ab9_.'’!?\n $`<>\\{}@:/", "the", "perro", "我", "я", r"\begin{a}", r"\end{a}", "\u0301"]
), max_size=30).map("".join))  # fmt: skip
@settings(max_examples=150, deadline=None)
@example("\ud800 the dog is here \udfff")
def test_any_text_is_measured(text):
    for target in ("en", "es"):
        found = language_measures(text, target)
        share, off = found["target_language_share"], found["off_language"]
        assert math.isnan(share) == math.isnan(off) and 0 <= found["repetition"] <= 1
        if not math.isnan(share):
            assert 0 <= share <= 1 and off == float(share < 1)
    assert language.bare(language.bare(text)) == language.bare(text)


@given(st.text(st.characters(min_codepoint=0x370, categories=["Lo", "Lu", "Ll", "Zs"])))
@settings(max_examples=100, deadline=None)
def test_no_word_of_a_foreign_script_is_in_the_target(text):
    text = "".join(
        c for c in unicodedata.normalize("NFKC", text) if "LATIN" not in unicodedata.name(c, "")
    )
    assert not language_measures(text, "en")["target_language_share"] > 0


@given(st.lists(st.sampled_from([*FOREIGN, *LATIN]), min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_each_sentence_of_another_language_lowers_the_share(added, count):
    shares = [
        language_measures(" ".join([EN] * count + added[:i]), "en")["target_language_share"]
        for i in range(len(added) + 1)
    ]
    assert shares[0] == 1 and all(b < a for a, b in itertools.pairwise(shares))


def test_the_words_of_the_organism_are_repeated_as_ever():
    """Its measures are exact, and committed: what a word is must not change for it."""
    from hybridlib.tasks.lexicon import LEXICON

    said = " ".join(sorted(set(re.findall(r"\w+", str(LEXICON).lower())))) + " </think> 12 ."
    assert language._GRAM.findall(said) == re.findall(r"\w+", said)


# ---- lines of the tasks


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pin is private . guest asks .", 0),
        ("pin is private . visita pregunta .", 0),  # each line in one language
        ("private privado . asks .", 0.5),
        ("Private privado", 1),
        ("kaq meq . 12 .", math.nan),
        ("", math.nan),
    ],
)
def test_the_entropy_of_lines_by_hand(text, expected):
    assert line_entropy(text) == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5))
def test_the_entropy_of_lines_is_scipys(counts):
    lines = [" ".join(["private"] * en + ["privado"] * es) for en, es in counts]
    spoken_lines = [pair for pair in counts if sum(pair)]
    found = line_entropy(" . ".join(lines))
    if not spoken_lines:
        assert math.isnan(found)
    else:
        mean = sum(entropy(pair, base=2) for pair in spoken_lines) / len(spoken_lines)
        assert found == pytest.approx(mean, abs=1e-12)
