"""All texts of the tokenisers' golden set: those written down, and generated ones."""

import random
import unicodedata
from collections.abc import Iterator

import golden_texts

# Grammar enough for captions: subject, verb with place, adverb.
WORDS = {
    "english": (
        ("a brown dog", "two children", "the old man's bicycle", "A woman in a RED coat", "someone's cat", "3 tourists",
         "a well-known violinist", "my neighbour's kids", "an unbelievably large crowd", "the fire-fighter"),
        ("jumps over a fallen tree", "is sleeping on the sofa", "runs through shallow water", "won't look at the camera",
         "stands next to a tuk-tuk", "they're building a sandcastle", "I'd say is rock-climbing", "photographs the sunset"),
        ("in the snow.", "at 7:30pm!", "near the harbour", "for $12.50", "(seen from above)", "during the 1990s",
         "with friends & family", "at dusk...", "on the 21st floor", "?!"), " "),
    "german": (
        ("Ein brauner Hund", "Zwei Kinder", "Die Straßenbahnhaltestelle", "Der Bürgermeister von Köln", "Eine alte Frau",
         "Mädchen mit Zöpfen", "Das Fußballspiel", "Ein Übungsflugzeug"),
        ("springt über einen Zaun", "läuft durch tiefen Schnee", "schläft auf dem Sofa", "hält ein großes Stück Kuchen",
         "wartet vor der Bäckerei", "gehört zum Weltkulturerbe", "fährt Schlittschuh"),
        ("am Strand.", "im Gebirge!", "um 8:15 Uhr", "für 3,50 €", "„ganz allein“", "bei Nieselregen", "an der Grenze"), " "),
    "chinese": (
        ("一只棕色的狗", "两个孩子", "穿红色外套的女人", "一位老人", "三名游客", "消防员", "我的猫", "音乐家"),
        ("跳过倒下的树", "在沙发上睡觉", "在海边堆沙堡", "骑着自行车", "正在拍照", "站在桥上", "吃着苹果"),
        ("。", "！", "，在雪地里。", "，2024年冬天", "（俯视）", "、很高兴", "？"), ""),
    "japanese": (
        ("茶色の犬", "二人の子供", "赤いコートの女性", "お年寄り", "バイオリニスト", "消防士", "わたしのネコ"),
        ("が木を飛び越える", "がソファーで眠っている", "が砂浜で遊んでいる", "が自転車に乗る", "が写真を撮る", "は橋の上に立っている"),
        ("。", "！", "、雪の中で。", "（１２月）", "「本当に」", "ー"), ""),
    "arabic": (
        ("كلب بني", "طفلان", "امرأة ترتدي معطفًا أحمر", "رجل عجوز", "ثلاثة سياح", "رجل إطفاء", "قطتي الصغيرة"),
        ("يقفز فوق شجرة", "ينام على الأريكة", "يلعبان على الشاطئ", "يركب دراجة", "يلتقط صورة", "يقف على الجسر"),
        ("في الثلج.", "؟", "، ليلًا", "عام ٢٠٢٤", "!", "مع الأصدقاء"), " "),
    "hindi": (
        ("एक भूरा कुत्ता", "दो बच्चे", "लाल कोट वाली महिला", "एक बूढ़ा आदमी", "तीन पर्यटक", "मेरी बिल्ली"),
        ("पेड़ के ऊपर से कूदता है", "सोफे पर सो रहा है", "समुद्र तट पर खेल रहे हैं", "साइकिल चला रहा है", "तस्वीर ले रही है"),
        ("।", "बर्फ़ में।", "!", "२०२४ में", "दोस्तों के साथ"), " "),
    "thai": (
        ("สุนัขสีน้ำตาล", "เด็กสองคน", "ผู้หญิงใส่เสื้อแดง", "ชายชรา", "นักท่องเที่ยว", "แมวของฉัน"),
        ("กระโดดข้ามต้นไม้", "นอนบนโซฟา", "เล่นที่ชายหาด", "ขี่จักรยาน", "กำลังถ่ายรูป"),
        ("", " ในหิมะ", " ๒๕๖๗", "!", " กับเพื่อน ๆ"), ""),
    "russian": (
        ("Коричневая собака", "Двое детей", "Женщина в красном пальто", "Ёжик", "Старик", "Туристы"),
        ("прыгает через дерево", "спит на диване", "играют на пляже", "едет на велосипеде", "фотографирует закат"),
        ("в снегу.", "!", "в 1990-х", "за 300 ₽", "вместе"), " "),
}
CONTRACTIONS = ("I'm", "you're", "he's", "WE'VE", "they'd", "it'll", "don't", "o'clock", "y'all'd've", "rock'n'roll", "'tis",
                "dogs'", "'s", "''s", "!'s", "a's'd'll've're'm't", "I'M SURE HE'S", "'sam", "'Re", "don’t", "l'été", "'ſ")
ADDRESSES = ("https://example.org/a/b?c=1&d=%20e#f", "http://user:pw@host.example:8080/", "www.example.org", "someone+tag@example.org",
             "ftp://example.org/~me/file.tar.gz", "C:\\Users\\me", "/usr/share/doc", "192.0.2.1", "[2001:db8::1]:443", "@handle #hashtag")
ENTITIES = ("&amp;", "&lt;b&gt;", "&quot;", "&#39;", "&#x27;", "&nbsp;", "&eacute;", "&copy;", "&notanentity;", "&", "&amp;amp;", "<br/>", "&#128512;")
EMOJI = ("😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "1️⃣", "❤️", "🧑🏿‍🚀", "🐻‍❄️", "🤷🏻‍♀️", "👩‍❤️‍💋‍👨", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "☃", "🫠", "🥹", "⚽", "✈️", "🪿", "🫨", "☺")
WHITESPACE = (" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u2003",
              "\u2007", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff")
MARKS = "\u0300\u0301\u0302\u0303\u0304\u0307\u0308\u030a\u0323\u0327\u0328\u0331\u0338\u0345\u0591\u05bc\u064b\u0651\u093c\u0e48\u3099\u20d0"
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "<|STARTOFTEXT|>", "x<|startoftext|>y", "!<|endoftext|>", "<|endoftext|><|endoftext|>",
           "<start_of_text>", "</s>", "<s>", "<unk>", "<pad>", "a </s> b", "<eos>", "<bos>hello", "<0x41>", "<0xE2>", "</w>", "dog</w>", "▁", "▁dog",
           "▁▁ dog ▁", "dog▁cat", " ▁", "Ġdog", "Ċ", "##ing", "[CLS]", "[MASK] dog")
NEW_LETTERS = ("\u1c89\u1c8a", "a\ua7cb\ua7dcb", "\U00010d40\U00010d50\U00010d70", "\U0002ebf0\U0002ee5d", "x\U000105c0y", "\U000116d0a", "\U00016ea0\U00016eb8")


def captions(count: int) -> Iterator[str]:
    rng = random.Random(20261124)
    for _ in range(count):
        subjects, verbs, ends, glue = WORDS[rng.choice(tuple(WORDS))]
        yield glue.join((rng.choice(subjects), rng.choice(verbs), rng.choice(ends)))


def decorated(count: int) -> Iterator[str]:
    """Captions with something unusual in, before or behind them."""
    rng = random.Random(1)
    sources = (CONTRACTIONS, ADDRESSES, ENTITIES, EMOJI, WHITESPACE, SPECIAL)
    for caption in captions(count):
        words = caption.split(" ")
        for _ in range(rng.randint(1, 2)):
            words.insert(rng.randint(0, len(words)), rng.choice(rng.choice(sources)))
        text = rng.choice((" ", " ", " ", "")).join(words)
        yield rng.choice((text, text, text.upper(), text.title(), unicodedata.normalize("NFD", text)))


def numbers(count: int) -> Iterator[str]:
    rng = random.Random(2)
    for _ in range(count):
        digits = rng.choice(("0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "²³½¾Ⅷ①㊀"))
        number = "".join(rng.choices(digits, k=rng.randint(1, 9)))
        yield rng.choice(("{}", "{}.{}", "{},{}", "-{}", "{}%", "{}kg", "No.{}", "{}th", "a{}b{}", "{} {}")).replace("{}", number)


def runs(count: int) -> Iterator[str]:
    """Characters of all planes, as they come."""
    rng = random.Random(3)
    known = [chr(code) for code in range(0x20, 0x1FB00) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
             and not 0x3400 <= code <= 0x9FFF and not 0xAC00 <= code <= 0xD7A3 and not 0x17000 <= code <= 0x18CFF]
    for _ in range(count):
        yield "".join(rng.choice(known) + rng.choice(("", "", " ", "a")) for _ in range(rng.randint(1, 8)))


def marked(count: int) -> Iterator[str]:
    """Letters under several marks, in any order."""
    rng = random.Random(4)
    for _ in range(count):
        yield "".join(rng.choice("aeiounAOU sc\u0915\u05d0\u0627\u304b\u1100\u1161\u11a8") + "".join(rng.choices(MARKS, k=rng.randint(0, 4)))
                      for _ in range(rng.randint(1, 8)))


def ascii_noise(count: int) -> Iterator[str]:
    rng = random.Random(5)
    for _ in range(count):
        yield "".join(rng.choices("abcdeABCDE '\"<|>_-.,!?&;:/\\()[]{}0123456789~`@#$%^*+= \t", k=rng.randint(1, 20)))


def sigmas() -> Iterator[str]:
    """What follows and precedes a capital sigma decides its lower case in Python."""
    for text in ("Σ", "ΑΣ", "ΣΑ", "ΑΣΑ", "ΑΣ ΑΣ", "ΑΣ.", "ΑΣ.Α", "Α.Σ", "Α'Σ'", "ΑΣ'Α", "1Σ", "ΑΣ1", "AΣ-B", "Α\u0301Σ\u0301", "ΑΣ\u00ad", "ΑΣ\u200dΑ",
                 "ΣΣΣ", "ΑΣ:Α", "ΑΣ·Α", "ͺΣ", "ʰΣ", "aΣ", "Σa", "中Σ", "ΑΣ中", "\u0345Σ", "ΑΣ^", "ΑΣ_", "ΑΣ¨Α", "🅰Σ", "ⓐΣ", "ªΣ", "ⅰΣ", "ΌΣΟΣ ΝΌΜΟΣ"):
        yield text


def long_texts() -> Iterator[str]:
    yield "supercalifragilistic" * 30
    yield "ab" * 400
    yield "犬" * 300
    yield "😀" * 120
    yield "e\u0301\u0323" * 150
    yield "word, " * 200
    yield "'s" * 100
    yield "1" * 200
    yield " " * 500 + "a"
    yield "a" + "\u0301\u0323" * 200
    yield ("x" * 4090) + " dog" * 30
    yield ("x " * 2043) + "e\u0301 \u1100\u1161\u11a8"
    for words in (60, 61, 62, 63, 64, 73, 74, 75, 76, 77, 78):
        yield " ".join(["a"] * words)
        yield "!1" * (words // 2) + "a" * (words % 2)


def all_texts() -> list[str]:
    """Each once, in a fixed order."""
    texts = ["A woman in a RED coat, 1990s!", *golden_texts.all_texts(), *CONTRACTIONS, *ADDRESSES, *ENTITIES, *EMOJI, *SPECIAL, *NEW_LETTERS, *sigmas(), *long_texts(),
             *(f"a{space}b" for space in WHITESPACE), *(f"{space}a{space}" for space in WHITESPACE),
             *(chr(code) for code in range(0x00, 0x100)), *(f"dog{chr(code)}" for code in range(0x00, 0x20)),
             *captions(220), *decorated(420), *numbers(120), *runs(320), *marked(120), *ascii_noise(160)]
    return list(dict.fromkeys(texts))
