"""Texts of the golden set that are written down, with some generated ones; none is from a dataset."""

import random
import unicodedata
from collections.abc import Iterator

ENGLISH = (
    "A brown dog jumps over a fallen tree.", "Two children build a sandcastle near the water",
    "the quick brown fox jumps over the lazy dog", "Isn't it the neighbours' cat, sleeping there?",
    "A man in a red jacket (and a blue hat) waits at gate 42B.", "rock-climbing, well-known, state-of-the-art",
    "I paid $3.99 for 2.5 kg of apples - 20% off!", "e-mail me at someone@example.org, please",
    "https://example.org/path/to?query=1&other=two#part", "C++, C#, F# and .NET", "1,234,567.89", "3:45pm",
    "U.S.A. vs. U.K.", "WOMAN RIDING A HORSE", "SnowBoarder IN MidAir", "antidisestablishmentarianism",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "supercalifragilisticexpialidocious",
    "it's, he'll, they've, we'd, I'm", "“curly quotes” and ‘single ones’", "dashes – en, — em, ‒ figure",
    "an ellipsis… and three dots...", "half ½, quarter ¼, degree 20°C, micro µm", "x² + y³ = z₄",
    "footnote¹ and ™ ® ©", "a/b\\c|d", "{json: [1, 2, 3]}", "<html>&amp;</html>", "snake_case camelCase kebab-case",
    "~tilde~ ^caret^ `tick`", "naïve café résumé jalapeño", "Ångström, Gödel, Fußball", "don’t", "rock ’n’ roll",
    "no.1", "24/7", "A", "I", "a b c d e f g", "the the the", "zzzzzzzz qqqqqq xxyyzz", "colour color",
    "unaffable unwanted running", "tokenization detokenizer", "a small plane, seen from below, at dusk",
)
GERMAN = (
    "Ein brauner Hund springt über einen Baumstamm.", "Zwei Kinder spielen am Strand mit Eimern.",
    "Die Straße ist naß, überall stehen Pfützen.", "Donaudampfschifffahrtsgesellschaftskapitän",
    "Äpfel, Öl und Übermut", "ÄÖÜ äöü ß ẞ", "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    "„Guten Morgen“, sagte der Bäcker.", "Er kostet 3,50 €.", "Grüße aus Köln!", "am 23. November 2026 um 8:15 Uhr",
    "Weißwürste & Brezeln", "Der Zug fährt um 7 Uhr ab; wir sind zu spät.",
)
FRENCH = (
    "Un chien brun saute par-dessus un tronc d'arbre.", "L'été dernier, nous étions à la plage.",
    "Où est passé le garçon ?", "Ça coûte très cher, hélas…", "Œuvre, cœur, sœur, æther", "« Bonjour », dit-elle.",
    "aujourd’hui, c’est l’anniversaire de Noël", "ÉÈÊË ÀÂ ÎÏ ÔÖ ÙÛÜ Ç", "Qu'est-ce que c'est ?",
    "un vieux vélo appuyé contre un mur blanc", "La forêt brûlée près de Béziers",
)
OTHER_LATIN = (
    "El niño comió piña en España.", "¿Dónde está la montaña? ¡Allí!", "São Paulo, coração, pão de açúcar",
    "Příliš žluťoučký kůň úpěl ďábelské ódy", "Zażółć gęślą jaźń", "Iğdır, İstanbul, ılık, IŞIK",
    "árvíztűrő tükörfúrógép", "Þórður fór út í óveðrið", "Tiếng Việt có nhiều dấu thanh: ặ ẫ ỗ ữ",
    "Đà Nẵng, đường phố", "Ljubljana, čokolada, žaba, šuma", "ŁÓDŹ i Kraków", "Ħal Għargħur", "Ŋ ŋ Ʒ ʒ Ə ə", "ﬁne ﬂow oﬃce",
    "ǆ ǅ Ǆ", "Ａｌｐｈａ ｆｕｌｌｗｉｄｔｈ １２３", "𝐛𝐨𝐥𝐝 𝑖𝑡𝑎𝑙𝑖𝑐 𝕕𝕠𝕦𝕓𝕝𝕖", "Ⅷ ⅷ ① ② ㊀",
)
CHINESE = (
    "一只棕色的狗跳过倒下的树。", "两个孩子在海边玩耍", "北京2026年11月23日", "我喜欢吃苹果和banana。", "“你好”，他说：《红楼梦》很好看！",
    "紅色的花園裡有一隻貓", "一个人骑着自行车穿过雨中的街道", "第1名", "〇一二三", "㐀㐁㐂", "𠀀𠀁𪜀", "豈更車", "中文and英文mixed在一起", "！？，。；：（）【】",
)
JAPANESE = (
    "茶色の犬が木を飛び越える。", "子供たちが砂浜で遊んでいる", "カタカナとひらがなと漢字", "東京タワーは333メートルです。", "がぎぐげご ぱぴぷぺぽ",
    "がぎぐ", "ｶﾀｶﾅ ﾊﾝｶｸ ﾊﾞﾊﾟ", "「こんにちは」と言った。", "ラーメン・すし・てんぷら", "ヴァイオリン", "々〆ヵヶ", "ゝゞヽヾ", "〜から―まで",
)
KOREAN = (
    "갈색 개가 쓰러진 나무를 뛰어넘는다.", "두 아이가 해변에서 놀고 있다", "서울특별시 강남구 123번지", "한국어 문장입니다!", "각", "가각간",
    "커피 2잔 주세요", "ㄱㄴㄷ ㅏㅑㅓ", "漢字와 한글",
)
ARABIC = (
    "كلب بني يقفز فوق شجرة.", "طفلان يلعبان على الشاطئ", "السَّلَامُ عَلَيْكُمْ", "أإآء ؤ ئ ة ى", "٠١٢٣٤٥٦٧٨٩", "لا إله", "ﻻ ﷲ ﺍﻟﻌﺮﺑﻴﺔ",
    "مرحبا، كيف حالك؟", "فارسی: پژوهش گچ", "اُردو زبان",
)
HINDI_AND_NEIGHBOURS = (
    "एक भूरा कुत्ता पेड़ के ऊपर से कूदता है।", "दो बच्चे समुद्र तट पर खेल रहे हैं", "क्षत्रिय ज्ञान श्री", "हिन्दी १२३", "क़ ख़ ग़ ज़ ड़ ढ़ फ़", "বাংলা ভাষা",
    "தமிழ் மொழி", "తెలుగు భాష", "ಕನ್ನಡ", "മലയാളം", "ગુજરાતી", "ਪੰਜਾਬੀ", "සිංහල", "नेपाली॥",
)
THAI_AND_NEIGHBOURS = (
    "สุนัขสีน้ำตาลกระโดดข้ามต้นไม้", "เด็กสองคนเล่นที่ชายหาด", "กรุงเทพมหานคร ๑๒๓", "น้ำ ทำ คำ", "ພາສາລາວ", "ភាសាខ្មែរ", "မြန်မာဘာသာ", "བོད་ཡིག",
)
OTHER_SCRIPTS = (
    "Коричневая собака прыгает через дерево.", "Ёжик и йогурт", "Її ґанок, Європа", "Ѐ Ѝ ѐ ѝ", "Η καφέ σκύλα πηδάει πάνω από το δέντρο.",
    "ΣΊΣΥΦΟΣ σίσυφος ΟΔΟΣ", "ἄνθρωπος ᾠδή", "שלום עולם", "שָׁלוֹם", "Հայերեն լեզու և", "ქართული ენა ᲥᲐᲠᲗᲣᲚᲘ", "አማርኛ", "ᏣᎳᎩ ꮳꮃꭹ", "ᐃᓄᒃᑎᑐᑦ", "ᠮᠣᠩᠭᠣᠯ",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ", "𐐀𐐨 deseret", "ޑިވެހި", "ܣܘܪܝܝܐ",
)
EMOJI = (
    "😀", "a dog 🐕 in the snow ❄️", "👍🏽 great", "👨‍👩‍👧‍👦 family", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣2️⃣", "☺ ☺️", "❤ ❤️ 💔", "🧑🏿‍🚀 in space", "🐻‍❄️",
    "love❤you", "⚽🏀🏈", "✈️→🏖️", "🤷🏻‍♀️?", "👩‍❤️‍💋‍👨", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "♠♣♥♦", "★☆✓✗", "←↑→↓⇒", "∀x∈ℝ: x²≥0", "€ £ ¥ ₹ ₿ ¢ ₩", "§ ¶ † ‡ • ‰", "■□▲△◆◇○●", "░▒▓█",
)
SPECIAL_TOKENS = (
    "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "a [MASK] dog", "[CLS] hello [SEP] world [SEP]", "[mask]", "[ MASK ]",
    "[[MASK]]", "[unused1]", "[unused0] [unused99]", "##ing", "run ##ning", "# #ing", "<s> </s> <pad>", "[CLS][SEP]", "x[MASK]y", "[UNK]known",
)
WHITESPACE = (
    "", " ", "\t", "\n", "\r\n", "  leading", "trailing  ", "two  spaces", "tab\there", "line\nbreak", "carriage\rreturn", "vertical\vtab",
    "form\ffeed", "no\u00a0break", "thin\u2009space", "ideographic\u3000space", "line\u2028separator", "paragraph\u2029separator",
    "narrow\u202fspace", "ogham\u1680space", "em\u2003en\u2002", "zero\u200bwidth", "joiner\u200dhere", "nonjoiner\u200chere", "word\u2060joiner",
    "byte\ufefforder", "\ufeffat the start", "next\u0085line", "soft\u00adhyphen", "mongolian\u180evowel", "medium\u205fmath", "figure\u2007space",
    "\u3000\u3000全角", " \t\n\r ",
)
CONTROLS = (
    "nul\u0000inside", "bell\u0007", "escape\u001b[31mred\u001b[0m", "delete\u007f", "c1\u0080\u0099end", "replacement\ufffdcharacter",
    "left\u200eright\u200fmarks", "\u202abidi\u202c \u202eoverride\u202c", "\u2066isolate\u2069", "private\ue000use", "\uf8ff", "non\uffffcharacter",
    "\ufffe", "tag\U000e0041", "\U0010ffff", "object\ufffcreplacement", "\u0001\u0002\u0003", "a\u0000", "\u0000", "unassigned\u0378here",
    "interlinear\ufff9a\ufffab\ufffb", "variation\ufe0fselector", "\U000e0100",
)
COMBINING = (
    "e\u0301 u\u0308 n\u0303", "\u0301alone", "a\u0300\u0301\u0302\u0303\u0304", "Z\u0351\u036b\u0343a\u0363\u0368l\u0358g\u0321o\u0322",
    "A\u030a = \u00c5 = \u212b", "q\u0323\u0307 q\u0307\u0323", "\u1e69 s\u0323\u0307", "o\u0337 l\u0335", "a\u20dd 1\u20e3", "\u0f71\u0f72\u0f74", "\u05d1\u05bc",
    "I\u0307 i\u0307", "\u01d5 \u1e14", "\u0344 \u0374 \u037e \u0387", "\u2126 \u212a", "\u1100\u1161\u11a8", "\uac01",
    "\u3099\u304b", "\U0001d15e", "\ufb1d \ufb2a", "K\u0328\u0301",
)


def long_texts() -> Iterator[str]:
    """Words around the limit of 100 characters and texts around the limit of 128 ids."""
    for length in (98, 99, 100, 101, 102, 200, 1000):
        yield "a" * length
        yield "é" * length
        yield "dog " + "x" * length + " cat"
    yield "猫" * 125
    for words in (125, 126, 127, 128, 300):
        yield " ".join(["dog"] * words)
        yield " ".join(["unwantedly"] * (words // 3))
        yield "." * words
        yield "犬" * words
    yield "-".join(["word"] * 80)
    yield "a" * 100 + "." + "b" * 100
    yield "word " * 2000
    yield "e\u0301" * 100
    yield "e\u0301" * 101
    yield "😀" * 150


def boundary_characters() -> Iterator[str]:
    """Each ASCII sign between letters, and the ends of the ranges counted as Chinese."""
    for code in [*range(0x21, 0x30), *range(0x3A, 0x41), *range(0x5B, 0x61), *range(0x7B, 0x7F)]:
        yield f"in{chr(code)}side {chr(code)} {chr(code)}{chr(code)}"
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
              (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    for first, last in ranges:
        for code in (first - 1, first, last, last + 1):
            yield f"a{chr(code)}b"


def sampled_characters(count: int, width: int) -> Iterator[str]:
    """Runs of characters that Unicode 3.2 knows, between letters, from all planes."""
    rng = random.Random(20261123)
    known = [chr(code) for code in range(0xA0, 0x2FA20)
             if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs", "Co")
             and not 0x3400 <= code <= 0x9FFF and not 0xAC00 <= code <= 0xD7A3
             and not 0x20000 <= code <= 0x2A6DF]
    for _ in range(count):
        yield "".join(rng.choice(("", "a", " ", "Ab")) + rng.choice(known) for _ in range(width))


def mixed_sentences(count: int) -> Iterator[str]:
    rng = random.Random(7)
    parts = (ENGLISH + GERMAN + FRENCH + OTHER_LATIN + CHINESE + JAPANESE + KOREAN + ARABIC
             + HINDI_AND_NEIGHBOURS + THAI_AND_NEIGHBOURS + OTHER_SCRIPTS + EMOJI)
    for _ in range(count):
        glue = rng.choice((" ", "", ", ", "\n", " - ", "\u00a0"))
        yield glue.join(rng.sample(parts, rng.randint(2, 6)))


def all_texts() -> Iterator[str]:
    for group in (ENGLISH, GERMAN, FRENCH, OTHER_LATIN, CHINESE, JAPANESE, KOREAN, ARABIC,
                  HINDI_AND_NEIGHBOURS, THAI_AND_NEIGHBOURS, OTHER_SCRIPTS, EMOJI, SPECIAL_TOKENS,
                  WHITESPACE, CONTROLS, COMBINING):
        yield from group
    yield from long_texts()
    yield from boundary_characters()
    yield from sampled_characters(80, 8)
    yield from mixed_sentences(80)
