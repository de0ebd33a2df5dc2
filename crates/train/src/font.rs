//! Very small letters, for the legends of curves.

use gallop_core::Frame;

/// Each letter is five rows of three bits, the top row in the highest bits.
const GLYPHS: &[(char, u16)] = &[
    ('a', 0x0cef),
    ('b', 0x4d6e),
    ('c', 0x0723),
    ('d', 0x176b),
    ('e', 0x07e3),
    ('f', 0x39a4),
    ('g', 0x3ace),
    ('h', 0x4d6d),
    ('i', 0x2092),
    ('j', 0x106a),
    ('k', 0x4bb5),
    ('l', 0x6497),
    ('m', 0x0fed),
    ('n', 0x0d6d),
    ('o', 0x056a),
    ('p', 0x0d74),
    ('q', 0x0759),
    ('r', 0x0724),
    ('s', 0x079e),
    ('t', 0x2e93),
    ('u', 0x0b6b),
    ('v', 0x0b6a),
    ('w', 0x0b7f),
    ('x', 0x0a95),
    ('y', 0x5ace),
    ('z', 0x0ea7),
    ('0', 0x7b6f),
    ('1', 0x2c97),
    ('2', 0x62a7),
    ('3', 0x628e),
    ('4', 0x5bc9),
    ('5', 0x798e),
    ('6', 0x39ef),
    ('7', 0x7292),
    ('8', 0x7bef),
    ('9', 0x7bce),
    ('.', 0x0002),
    ('-', 0x01c0),
    ('_', 0x0007),
    ('/', 0x12a4),
];

/// Columns of a letter, the space after it included.
const ADVANCE: usize = 4;
/// Pixels a dot of a letter.
const SCALE: usize = 2;

/// Writes `text` with its top left corner at `at`; unknown letters are left out.
pub(crate) fn write(picture: &mut Frame, at: [usize; 2], text: &str, colour: [u8; 3]) {
    for (i, letter) in text.chars().enumerate() {
        let letter = letter.to_ascii_lowercase();
        let Some((_, bits)) = GLYPHS.iter().find(|(known, _)| *known == letter) else {
            continue;
        };
        for dot_index in 0..15 {
            if bits >> (14 - dot_index) & 1 == 1 {
                let x = at[0] + (i * ADVANCE + dot_index % 3) * SCALE;
                let y = at[1] + dot_index / 3 * SCALE;
                for k in 0..SCALE * SCALE {
                    dot(picture, [x + k % SCALE, y + k / SCALE], colour);
                }
            }
        }
    }
}

/// Colours one pixel, if there is one.
pub(crate) fn dot(picture: &mut Frame, [x, y]: [usize; 2], colour: [u8; 3]) {
    if x < picture.size.width && y < picture.size.height {
        let at = (y * picture.size.width + x) * 3;
        picture.rgb[at..at + 3].copy_from_slice(&colour);
    }
}
