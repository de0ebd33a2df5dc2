//! The sounds of speech: where the tract resonates, what hisses, what the lips do.
//!
//! Formants are those of a man in hertz, after Peterson and Barney, Klatt, and published means
//! for Mandarin; other voices scale them.

/// How a sound is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The middle of a syllable.
    Vowel,
    /// Voiced and open, but no vowel: l, r, w, y.
    Glide,
    /// Through the nose.
    Nasal,
    /// Shut, then released; voiced or not.
    Stop { voiced: bool, aspirated: bool },
    /// Shut, then released into a hiss.
    Affricate { voiced: bool, aspirated: bool },
    /// A hiss.
    Fricative { voiced: bool },
    /// Breath through the shape of what follows.
    Aspirate,
    /// Silence.
    Pause,
}

/// Where the tract is narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Labial,
    LipTeeth,
    Dental,
    Alveolar,
    Palatal,
    Retroflex,
    Velar,
    Open,
}

/// The shape of the mouth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mouth {
    /// 0 shut, 1 wide open.
    pub open: f32,
    /// -1 rounded, 0 at rest, 1 spread.
    pub spread: f32,
    /// How much of the upper teeth is seen, 0 to 1.
    pub teeth: f32,
    /// How far the tongue is raised, 0 to 1.
    pub tongue: f32,
}

/// One sound of speech.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Phone {
    /// Its name in the lexicon.
    pub(super) symbol: &'static str,
    /// As the International Phonetic Association writes it.
    pub(super) ipa: &'static str,
    pub(super) class: Class,
    pub(super) place: Place,
    /// First three formants, hertz.
    pub(super) from: [f32; 3],
    /// Where they go during a diphthong.
    pub(super) to: Option<[f32; 3]>,
    /// Usual length in milliseconds.
    pub(super) ms: f32,
    pub(super) mouth: Mouth,
    /// The mouth at the end of a diphthong.
    pub(super) mouth_to: Option<Mouth>,
}

const fn mouth(open: f32, spread: f32, teeth: f32, tongue: f32) -> Mouth {
    Mouth {
        open,
        spread,
        teeth,
        tongue,
    }
}

const fn vowel(symbol: &'static str, ipa: &'static str, f: [f32; 3], ms: f32, m: Mouth) -> Phone {
    Phone {
        symbol,
        ipa,
        class: Class::Vowel,
        place: Place::Open,
        from: f,
        to: None,
        ms,
        mouth: m,
        mouth_to: None,
    }
}

const fn glides(base: Phone, to: [f32; 3], mouth_to: Mouth) -> Phone {
    Phone {
        to: Some(to),
        mouth_to: Some(mouth_to),
        ..base
    }
}

const fn consonant(
    names: (&'static str, &'static str),
    (class, place): (Class, Place),
    from: [f32; 3],
    ms: f32,
    mouth: Mouth,
) -> Phone {
    Phone {
        symbol: names.0,
        ipa: names.1,
        class,
        place,
        from,
        to: None,
        ms,
        mouth,
        mouth_to: None,
    }
}

const fn stop(voiced: bool, aspirated: bool) -> Class {
    Class::Stop { voiced, aspirated }
}
const fn affricate(voiced: bool, aspirated: bool) -> Class {
    Class::Affricate { voiced, aspirated }
}
const HISS: Class = Class::Fricative { voiced: false };
const BUZZ: Class = Class::Fricative { voiced: true };

use Class::{Aspirate, Glide, Nasal, Pause};
use Place::{Alveolar, Dental, Labial, LipTeeth, Open, Palatal, Retroflex, Velar};

const WIDE: Mouth = mouth(0.95, 0.0, 0.25, 0.1);
const AT_I: Mouth = mouth(0.36, 0.8, 0.6, 0.5);
const AT_U: Mouth = mouth(0.28, -0.95, 0.0, 0.2);
const LIPS: Mouth = mouth(0.0, 0.0, 0.0, 0.0);
const RIDGE: Mouth = mouth(0.13, 0.25, 0.8, 0.7);

/// Every sound, a row each.
#[rustfmt::skip]
pub(super) const PHONES: &[Phone] = &[
    // English vowels.
    vowel("IY", "i", [280.0, 2250.0, 2950.0], 145.0, AT_I),
    vowel("IH", "ɪ", [400.0, 1950.0, 2550.0], 115.0, mouth(0.38, 0.5, 0.5, 0.4)),
    vowel("EH", "ɛ", [560.0, 1790.0, 2500.0], 130.0, mouth(0.58, 0.4, 0.4, 0.3)),
    vowel("AE", "æ", [690.0, 1660.0, 2450.0], 165.0, mouth(0.82, 0.4, 0.4, 0.2)),
    vowel("AA", "ɑ", [740.0, 1110.0, 2440.0], 165.0, WIDE),
    vowel("AO", "ɔ", [580.0, 860.0, 2450.0], 165.0, mouth(0.75, -0.45, 0.1, 0.1)),
    vowel("UH", "ʊ", [440.0, 1030.0, 2250.0], 115.0, mouth(0.34, -0.6, 0.1, 0.2)),
    vowel("UW", "u", [310.0, 930.0, 2230.0], 150.0, AT_U),
    vowel("AH", "ʌ", [630.0, 1220.0, 2550.0], 120.0, mouth(0.66, 0.1, 0.3, 0.2)),
    vowel("AX", "ə", [490.0, 1420.0, 2500.0], 75.0, mouth(0.42, 0.1, 0.3, 0.2)),
    vowel("ER", "ɝ", [480.0, 1330.0, 1690.0], 150.0, mouth(0.38, -0.35, 0.3, 0.4)),
    glides(vowel("EY", "eɪ", [500.0, 1950.0, 2550.0], 170.0, mouth(0.55, 0.5, 0.5, 0.3)), [330.0, 2200.0, 2750.0], AT_I),
    glides(vowel("AY", "aɪ", [730.0, 1180.0, 2500.0], 195.0, WIDE), [370.0, 2000.0, 2600.0], mouth(0.36, 0.6, 0.5, 0.4)),
    glides(vowel("OY", "ɔɪ", [560.0, 860.0, 2400.0], 210.0, mouth(0.62, -0.6, 0.1, 0.1)), [370.0, 1950.0, 2550.0], mouth(0.36, 0.5, 0.5, 0.4)),
    glides(vowel("AW", "aʊ", [730.0, 1250.0, 2500.0], 200.0, WIDE), [400.0, 900.0, 2300.0], mouth(0.30, -0.8, 0.0, 0.2)),
    glides(vowel("OW", "oʊ", [540.0, 980.0, 2400.0], 175.0, mouth(0.58, -0.5, 0.1, 0.1)), [360.0, 780.0, 2250.0], AT_U),
    // Mandarin vowels and the parts of its finals.
    vowel("a", "a", [800.0, 1280.0, 2600.0], 150.0, WIDE),
    vowel("o", "o", [540.0, 840.0, 2500.0], 140.0, mouth(0.55, -0.6, 0.1, 0.1)),
    vowel("e", "ɤ", [490.0, 1120.0, 2450.0], 145.0, mouth(0.48, 0.1, 0.3, 0.2)),
    vowel("eh", "ɛ", [540.0, 1850.0, 2550.0], 130.0, mouth(0.56, 0.4, 0.4, 0.3)),
    vowel("i", "i", [280.0, 2300.0, 3050.0], 150.0, AT_I),
    vowel("u", "u", [330.0, 700.0, 2350.0], 150.0, AT_U),
    vowel("v", "y", [280.0, 1950.0, 2250.0], 150.0, mouth(0.20, -0.85, 0.1, 0.5)),
    vowel("z_i", "ɿ", [370.0, 1350.0, 2600.0], 140.0, mouth(0.25, 0.4, 0.8, 0.6)),
    vowel("r_i", "ʅ", [370.0, 1620.0, 2100.0], 140.0, mouth(0.28, 0.1, 0.6, 0.6)),
    vowel("er", "ɚ", [560.0, 1330.0, 1750.0], 190.0, mouth(0.5, -0.1, 0.3, 0.4)),
    glides(vowel("ai", "ai", [770.0, 1380.0, 2550.0], 190.0, WIDE), [400.0, 2000.0, 2600.0], mouth(0.36, 0.6, 0.5, 0.4)),
    glides(vowel("ei", "ei", [500.0, 1850.0, 2500.0], 180.0, mouth(0.52, 0.5, 0.5, 0.3)), [320.0, 2200.0, 2800.0], AT_I),
    glides(vowel("ao", "au", [770.0, 1180.0, 2500.0], 195.0, WIDE), [460.0, 820.0, 2400.0], mouth(0.36, -0.8, 0.0, 0.2)),
    glides(vowel("ou", "ou", [550.0, 920.0, 2450.0], 180.0, mouth(0.52, -0.55, 0.1, 0.1)), [350.0, 740.0, 2350.0], AT_U),
    vowel("i-", "j", [300.0, 2200.0, 2950.0], 65.0, AT_I),
    vowel("u-", "w", [330.0, 750.0, 2300.0], 65.0, AT_U),
    vowel("v-", "ɥ", [290.0, 1900.0, 2250.0], 65.0, mouth(0.2, -0.85, 0.1, 0.5)),
    // Glides and nasals.
    consonant(("L", "l"), (Glide, Alveolar), [360.0, 1150.0, 2700.0], 70.0, mouth(0.34, 0.1, 0.5, 1.0)),
    consonant(("R", "ɹ"), (Glide, Retroflex), [330.0, 1120.0, 1500.0], 75.0, mouth(0.25, -0.5, 0.3, 0.4)),
    consonant(("W", "w"), (Glide, Labial), [300.0, 660.0, 2250.0], 75.0, mouth(0.12, -1.0, 0.0, 0.1)),
    consonant(("Y", "j"), (Glide, Palatal), [270.0, 2200.0, 3000.0], 70.0, mouth(0.26, 0.7, 0.5, 0.5)),
    consonant(("M", "m"), (Nasal, Labial), [270.0, 1050.0, 2250.0], 80.0, LIPS),
    consonant(("N", "n"), (Nasal, Alveolar), [270.0, 1550.0, 2600.0], 75.0, RIDGE),
    consonant(("NG", "ŋ"), (Nasal, Velar), [270.0, 1900.0, 2400.0], 90.0, mouth(0.20, 0.0, 0.3, 0.3)),
    consonant(("ng", "ŋ"), (Nasal, Velar), [280.0, 1050.0, 2400.0], 95.0, mouth(0.22, -0.1, 0.3, 0.3)),
    // Hisses.
    consonant(("F", "f"), (HISS, LipTeeth), [320.0, 1150.0, 2250.0], 105.0, mouth(0.08, 0.1, 1.0, 0.0)),
    consonant(("V", "v"), (BUZZ, LipTeeth), [260.0, 1150.0, 2250.0], 70.0, mouth(0.08, 0.1, 1.0, 0.0)),
    consonant(("TH", "θ"), (HISS, Dental), [320.0, 1350.0, 2600.0], 100.0, mouth(0.22, 0.1, 0.7, 1.0)),
    consonant(("DH", "ð"), (BUZZ, Dental), [270.0, 1350.0, 2600.0], 55.0, mouth(0.22, 0.1, 0.7, 1.0)),
    consonant(("S", "s"), (HISS, Alveolar), [320.0, 1600.0, 2650.0], 110.0, mouth(0.14, 0.45, 1.0, 0.4)),
    consonant(("Z", "z"), (BUZZ, Alveolar), [260.0, 1600.0, 2650.0], 80.0, mouth(0.14, 0.45, 1.0, 0.4)),
    consonant(("SH", "ʃ"), (HISS, Palatal), [320.0, 1800.0, 2550.0], 115.0, mouth(0.22, -0.5, 0.9, 0.3)),
    consonant(("x", "ɕ"), (HISS, Palatal), [300.0, 2050.0, 2950.0], 120.0, mouth(0.18, 0.6, 0.9, 0.4)),
    consonant(("sh", "ʂ"), (HISS, Retroflex), [330.0, 1650.0, 2250.0], 120.0, mouth(0.22, -0.3, 0.8, 0.4)),
    consonant(("r", "ʐ"), (BUZZ, Retroflex), [320.0, 1550.0, 2050.0], 80.0, mouth(0.24, -0.3, 0.5, 0.5)),
    consonant(("h", "x"), (Aspirate, Velar), [420.0, 1250.0, 2400.0], 95.0, mouth(0.42, 0.0, 0.3, 0.2)),
    consonant(("HH", "h"), (Aspirate, Open), [500.0, 1400.0, 2500.0], 65.0, mouth(0.45, 0.0, 0.3, 0.2)),
    // Stops and affricates.
    consonant(("P", "p"), (stop(false, true), Labial), [250.0, 950.0, 2250.0], 85.0, LIPS),
    consonant(("B", "b"), (stop(true, false), Labial), [220.0, 950.0, 2250.0], 75.0, LIPS),
    consonant(("T", "t"), (stop(false, true), Alveolar), [250.0, 1750.0, 2700.0], 75.0, RIDGE),
    consonant(("D", "d"), (stop(true, false), Alveolar), [220.0, 1750.0, 2700.0], 65.0, RIDGE),
    consonant(("K", "k"), (stop(false, true), Velar), [280.0, 1800.0, 2200.0], 80.0, mouth(0.3, 0.1, 0.4, 0.3)),
    consonant(("G", "ɡ"), (stop(true, false), Velar), [240.0, 1800.0, 2200.0], 70.0, mouth(0.3, 0.1, 0.4, 0.3)),
    consonant(("b", "p"), (stop(false, false), Labial), [240.0, 950.0, 2250.0], 75.0, LIPS),
    consonant(("d", "t"), (stop(false, false), Alveolar), [240.0, 1750.0, 2700.0], 65.0, RIDGE),
    consonant(("g", "k"), (stop(false, false), Velar), [260.0, 1800.0, 2200.0], 70.0, mouth(0.3, 0.1, 0.4, 0.3)),
    consonant(("CH", "tʃ"), (affricate(false, true), Palatal), [300.0, 1800.0, 2550.0], 70.0, mouth(0.2, -0.5, 0.9, 0.4)),
    consonant(("JH", "dʒ"), (affricate(true, false), Palatal), [260.0, 1800.0, 2550.0], 60.0, mouth(0.2, -0.5, 0.9, 0.4)),
    consonant(("j", "tɕ"), (affricate(false, false), Palatal), [280.0, 2050.0, 2950.0], 60.0, mouth(0.18, 0.6, 0.9, 0.5)),
    consonant(("q", "tɕʰ"), (affricate(false, true), Palatal), [280.0, 2050.0, 2950.0], 65.0, mouth(0.18, 0.6, 0.9, 0.5)),
    consonant(("zh", "ʈʂ"), (affricate(false, false), Retroflex), [300.0, 1650.0, 2250.0], 60.0, mouth(0.22, -0.3, 0.8, 0.5)),
    consonant(("ch", "ʈʂʰ"), (affricate(false, true), Retroflex), [300.0, 1650.0, 2250.0], 65.0, mouth(0.22, -0.3, 0.8, 0.5)),
    consonant(("z", "ts"), (affricate(false, false), Alveolar), [300.0, 1600.0, 2650.0], 60.0, mouth(0.14, 0.45, 1.0, 0.5)),
    consonant(("c", "tsʰ"), (affricate(false, true), Alveolar), [300.0, 1600.0, 2650.0], 65.0, mouth(0.14, 0.45, 1.0, 0.5)),
    consonant(("_", "_"), (Pause, Open), [480.0, 1450.0, 2500.0], 90.0, mouth(0.06, 0.0, 0.0, 0.1)),
];

/// The sound of that name.
pub(super) fn phone(symbol: &str) -> Option<&'static Phone> {
    PHONES.iter().find(|p| p.symbol == symbol)
}

impl Phone {
    pub(super) fn is_vowel(&self) -> bool {
        self.class == Class::Vowel
    }

    /// Whether the vocal folds swing all the way through.
    pub(super) fn is_voiced(&self) -> bool {
        match self.class {
            Class::Vowel | Class::Glide | Class::Nasal => true,
            Class::Fricative { voiced } => voiced,
            _ => false,
        }
    }
}

/// Two bands of noise: middle and width in hertz, level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hiss {
    pub(super) bands: [[f32; 3]; 2],
}

/// What a narrow place hisses like; sibilants are loud, lips and teeth faint.
pub(super) fn hiss(phone: &Phone) -> Hiss {
    let bands = match (phone.place, phone.symbol) {
        (Place::Labial | Place::LipTeeth, _) => [[1500.0, 3000.0, 0.10], [7000.0, 5000.0, 0.14]],
        (Place::Dental, _) => [[1800.0, 3000.0, 0.06], [6500.0, 5000.0, 0.13]],
        (Place::Alveolar, _) => [[4800.0, 1500.0, 0.25], [7400.0, 2500.0, 0.75]],
        (Place::Palatal, "x" | "j" | "q") => [[4000.0, 1200.0, 0.45], [6300.0, 2200.0, 0.55]],
        (Place::Palatal, _) => [[2700.0, 700.0, 0.55], [4600.0, 1800.0, 0.45]],
        (Place::Retroflex, _) => [[2350.0, 650.0, 0.55], [4000.0, 1600.0, 0.38]],
        (Place::Velar | Place::Open, _) => [[1500.0, 700.0, 0.30], [3600.0, 2000.0, 0.12]],
    };
    Hiss { bands }
}
