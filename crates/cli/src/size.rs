//! Amounts of memory and changes to weights, as people write them.

use std::path::PathBuf;

use gallop_model::lora::parse_lora;

/// What a unit stands for; longer names before those that they end with.
const UNITS: [(&str, u64); 10] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
    ("", 1),
];

/// Bytes: `18GiB`, `1.5 GB`, `700MiB`, or a plain number of them.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = (UNITS.iter()).find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit)));
    let parsed = unit.and_then(|(number, unit)| {
        let number: f64 = number.trim_end().parse().ok()?;
        let bytes = number * unit as f64;
        // Beyond 2^63 nothing is meant.
        (bytes >= 1.0 && bytes < (1u64 << 63) as f64).then_some(bytes as u64)
    });
    parsed.ok_or_else(|| {
        format!("`{text}` is no amount of memory; write, for instance, 18GiB, 700MiB or 12GB")
    })
}

/// `FILE` or `FILE:STRENGTH`.
pub fn lora(text: &str) -> Result<(PathBuf, f64), String> {
    let (file, strength) = parse_lora(text);
    match (text.is_empty(), strength.is_finite()) {
        (true, _) => {
            Err("a file is wanted, with or without a strength: style.safetensors:0.8".into())
        }
        (_, false) => Err(format!("the strength of `{text}` is no finite number")),
        _ => Ok((file, strength)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_and_without_units() {
        for (text, want) in [
            ("18GiB", 18 << 30),
            ("18 gib", 18 << 30),
            ("1.5GiB", 3 << 29),
            ("12GB", 12_000_000_000),
            ("700MiB", 700 << 20),
            ("250mb", 250_000_000),
            ("64KiB", 64 << 10),
            ("2TiB", 2 << 40),
            (" 4096 ", 4096),
            ("4096B", 4096),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "GiB",
            "-1GiB",
            "0",
            "0.2",
            "nan",
            "infGiB",
            "inf",
            "1e30GiB",
            "12 apples",
            "1GiBi",
            "١GiB",
        ] {
            let error = bytes(text).unwrap_err();
            assert!(error.contains("18GiB"), "{error}");
        }
    }

    #[test]
    fn strengths_are_finite() {
        assert_eq!(lora("a.safetensors:0.5"), Ok(("a.safetensors".into(), 0.5)));
        assert_eq!(lora("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        for text in ["", "a:nan", "a:inf", "a:-inf"] {
            assert!(lora(text).is_err(), "{text}");
        }
    }
}
