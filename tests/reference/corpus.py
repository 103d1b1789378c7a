"""Lines that are hard for tokenizers, the same on every run."""

import random

WORDS = (
    "the of and to in is was for with on at by from this that have not are it its they don't can't "
    "I'll we've you're he'd she's I'm IT'S O'Neil rock'n'roll ’twas isn’t Don'T naïve café résumé "
    "Straße İstanbul ǅ ﬁne œuvre internationalization antidisestablishmentarianism a b c x y z"
).split()
CODE = (
    "def f(x): return x ** 2|for (int i = 0; i < n; ++i) {|if err != nil { return err }|"
    "let mut v: Vec<u8> = vec![0; 1024];|SELECT * FROM t WHERE a >= 10 AND b IS NOT NULL;|"
    "<div class=\"row\">&nbsp;</div>|#include <stdio.h>|x = {'a': [1, 2, 3], \"b\": None}|"
    "\\frac{1}{2} \\alpha_{ij}|https://example.com/a?b=c&d=%20#e|user@example.com|$HOME/.config/*.toml|"
    "0xDEADBEEF 1e-10 3.14159 1_000_000|->>=<=>!==&&||??::...|\t\tprintf(\"%d\\n\", x);|@decorator|"
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case"
).split("|")
EMOJI = "🙂 😂 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 🇯🇵🇺🇸 ❤️ ☃ ☃︎ 1️⃣ #️⃣ 🫠 🧑🏿‍🚀 ♥ © ™ 🀄".split()
SPECIALS = (
    "<|im_start|> <|im_end|> <|endoftext|> <|im_start|>system <|im_end|><|im_end|> <|im_start| "
    "|im_end|> <|IM_START|> < |im_start|> <|im_start |> <|im<|im_end|>_end|> <s> </s> <unk> [INST] "
    "<repo_name> <file_sep> <jupyter_text> <gh_stars> <|eot_id|> <empty_output> <|begin_of_text|> "
    "<0x0A> ▁ ▁the Ġ Ġthe Ċ ĉ Ā"
).split(" ")
DIGITS = (
    "1 12 123 1234 12345678901234567890 007 3.14 1,000,000 1e9 2024-02-29 12:34:56 ٣٤٥ १२३ ๑๒๓ "
    "１２３ ²³ ½ ⅷ Ⅻ ㊷ 𝟘𝟙 a1b2c3 1st 2nd"
).split()
SPACES = ["\t", "\n", "\r\n", "\r", "\v", "\f", "\u00a0", "\u3000", "\u2003", "\u200b", "\u2028", "\u0085"]
RANGES = {
    "han": [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0xF900, 0xFAFF)],
    "kana": [(0x3041, 0x30FF), (0xFF66, 0xFF9F), (0xFF01, 0xFF5E)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x3131, 0x318E)],
    "indic": [(0x0900, 0x097F), (0x0980, 0x09FF), (0x0B80, 0x0BFF), (0x0E00, 0x0E7F)],
    "right to left": [(0x0590, 0x05F4), (0x0600, 0x06FF), (0x200E, 0x200F), (0x202A, 0x202E)],
    "european": [(0x00C0, 0x024F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x1E00, 0x1FFF)],
    "symbols": [(0x2000, 0x2BFF), (0x1F300, 0x1FAFF), (0x1D400, 0x1D7FF)],
    "control": [(0x00, 0x1F), (0x7F, 0x9F), (0xFFF0, 0xFFFF), (0xE000, 0xE0FF), (0xFE00, 0xFE0F)],
    "any": [(0x0000, 0xD7FF), (0xE000, 0x10FFFF)],
    "ascii": [(0x20, 0x7E)],
}


def characters(rng, ranges, longest):
    chosen = (rng.choice(ranges) for _ in range(rng.randint(1, longest)))
    return "".join(chr(rng.randint(*bounds)) for bounds in chosen)


def combining(rng):
    """Letters under marks, as often composed as not."""
    text = ""
    for _ in range(rng.randint(1, 8)):
        text += rng.choice("aeiouncsAEIOUyzकกع")
        text += characters(rng, [(0x0300, 0x036F), (0x064B, 0x0652)], 3)
    return text


def spaces(rng):
    if rng.random() < 0.6:
        return " " * rng.choice([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 64, 100, 200])
    return "".join(rng.choice([" ", rng.choice(SPACES)]) for _ in range(rng.randint(1, 12)))


def words(rng):
    joint = rng.choice([" ", " ", " ", "  ", ", ", ". ", "-", "\n"])
    text = joint.join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    return rng.choice([text, text, text.upper(), text.title(), text + rng.choice(".!?…\"')")])


def number(rng):
    return rng.choice(["", " ", "  ", "     ", "\t", "\n", "$", "-"]) + rng.choice(DIGITS)


def piece(rng):
    kind = rng.random()
    if kind < 0.30:
        return words(rng)
    if kind < 0.40:
        return rng.choice(["", "    ", "\t", "        "]) + rng.choice(CODE)
    if kind < 0.47:
        return rng.choice(EMOJI) * rng.choice([1, 1, 2, 5])
    if kind < 0.54:
        return rng.choice(SPECIALS)
    if kind < 0.64:
        return number(rng)
    if kind < 0.74:
        return spaces(rng)
    if kind < 0.80:
        return combining(rng)
    return characters(rng, RANGES[rng.choice(sorted(RANGES))], 12)


def lines(count, seed=20260101):
    """`count` texts of one to ten pieces; some of one repeated character, some empty."""
    rng = random.Random(seed)
    for index in range(count):
        if index % 500 == 0:
            yield ""
        elif index % 97 == 0:
            yield rng.choice("a \n\t=-_.é中🙂\0'1") * rng.choice([2, 3, 17, 64, 333, 1000])
        else:
            joint = rng.choice(["", "", " "])
            yield joint.join(piece(rng) for _ in range(rng.randint(1, 10)))
