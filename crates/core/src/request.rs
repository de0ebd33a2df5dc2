//! What a user asks for, and what will be made: parsed once, checked once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ClipShape, FPS, LatentShape, PixelSize, Result, Strides, UserError};

/// Longest prompt taken, in bytes.
const MAX_PROMPT_BYTES: usize = 20_000;
/// Shortest and longest clip, in seconds.
pub const DURATIONS: std::ops::RangeInclusive<f64> = 1.0..=15.0;

/// Width to height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio {
    /// Parts of width.
    pub width: usize,
    /// Parts of height.
    pub height: usize,
}

impl Ratio {
    /// The ratios that can be asked for by name.
    pub const ALL: [Ratio; 5] = [
        Ratio::new(16, 9),
        Ratio::new(9, 16),
        Ratio::new(1, 1),
        Ratio::new(4, 3),
        Ratio::new(3, 4),
    ];

    const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }
}

impl FromStr for Ratio {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self> {
        Ratio::ALL
            .into_iter()
            .find(|ratio| ratio.to_string() == text)
            .ok_or_else(|| {
                UserError::new(
                    format!("ratio `{text}` is not known"),
                    "use 16:9, 9:16, 1:1, 4:3 or 3:4",
                )
            })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

/// How fine the picture is: the pixels of its short side, or an exact size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// `256p`: the short side, the long one following from the ratio.
    ShortSide(usize),
    /// `448x256`.
    Exact(PixelSize),
}

impl Resolution {
    /// The pixel size at a ratio, both sides multiples of 16.
    ///
    /// `256p` at 16:9 is 448x256.
    pub fn size(&self, ratio: Ratio) -> PixelSize {
        let long = |short: usize, a: usize, b: usize| (short * a / b / 16).max(1) * 16;
        match *self {
            Self::Exact(size) => size,
            Self::ShortSide(short) if ratio.width >= ratio.height => {
                PixelSize::new(long(short, ratio.width, ratio.height), short)
            }
            Self::ShortSide(short) => PixelSize::new(short, long(short, ratio.height, ratio.width)),
        }
    }
}

impl FromStr for Resolution {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            UserError::new(
                format!("resolution `{text}` is not known"),
                "use a short side such as 256p, or a size such as 448x256, between 64 and 1920 and a multiple of 16",
            )
        };
        let side = |s: &str| {
            let n: usize = s.parse().map_err(|_| wrong())?;
            if (64..=1920).contains(&n) && n.is_multiple_of(16) {
                Ok(n)
            } else {
                Err(wrong())
            }
        };
        if let Some((width, height)) = text.split_once('x') {
            return Ok(Self::Exact(PixelSize::new(side(width)?, side(height)?)));
        }
        let short = text.strip_suffix(['p', 'P']).ok_or_else(wrong)?;
        // 540 and 1080 are the names people know; the sizes made are the multiples of 16 next to them.
        match short {
            "540" => Ok(Self::ShortSide(544)),
            "1080" => Ok(Self::ShortSide(1088)),
            _ => Ok(Self::ShortSide(side(short)?)),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortSide(short) => write!(f, "{short}p"),
            Self::Exact(size) => write!(f, "{}x{}", size.width, size.height),
        }
    }
}

/// What a user asks for, unchecked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What the clip shows and sounds like.
    pub prompt: String,
    /// Seconds.
    pub duration: f64,
    /// Width to height.
    pub ratio: Ratio,
    /// Fineness.
    pub resolution: Resolution,
    /// Equal seeds on the same kind of machine make equal files.
    pub seed: u64,
    /// Sampling steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Whether the clip has sound.
    pub audio: bool,
}

/// What will be made: every number that follows from a checked [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The request it was made from, its prompt trimmed.
    pub request: Request,
    /// Frames and pixels of the finished clip.
    pub clip: ClipShape,
    /// Pixels of the pictures that the transformer makes: the clip's, unless these are brought to its size afterwards.
    pub base: PixelSize,
    /// Latents that the transformer denoises; they cover pictures of the base size.
    pub latents: LatentShape,
}

impl Plan {
    /// Checks a request, for a model whose transformer makes pictures of these sizes, or of any if there are none.
    ///
    /// # Errors
    /// Names the option that is out of range and what it may be.
    pub fn new(mut request: Request, strides: Strides, makes: &[PixelSize]) -> Result<Self> {
        request.prompt = check_prompt(&request.prompt)?;
        check_range("--duration", request.duration, DURATIONS, "seconds")?;
        check_range("--steps", request.steps as f64, 1.0..=1000.0, "steps")?;
        check_range("--guidance", request.guidance, 0.0..=30.0, "")?;
        let clip = ClipShape {
            frames: (request.duration * FPS as f64).round() as usize,
            size: request.resolution.size(request.ratio),
        };
        let base = base_size(clip.size, makes);
        let latents = ClipShape { size: base, ..clip }.latents(strides);
        Ok(Self {
            request,
            clip,
            base,
            latents,
        })
    }
}

/// The pictures that a transformer makes for pictures of `size`: of the sizes that it `makes` the one nearest in shape,
/// or any size where it has none of its own.
pub fn base_size(size: PixelSize, makes: &[PixelSize]) -> PixelSize {
    let shape = |size: &PixelSize| (size.width as f64 / size.height as f64).ln();
    let away = |base: &&PixelSize| (shape(base) - shape(&size)).abs();
    let nearest = makes.iter().min_by(|a, b| away(a).total_cmp(&away(b)));
    nearest.copied().unwrap_or(size)
}

/// Refuses a number out of its range: names the option `name`, and the range in `unit`.
///
/// # Errors
/// When `value` is out of `range`, or no number.
pub fn check_range(
    name: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
    unit: &str,
) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let mend = format!("use {} to {} {unit}", range.start(), range.end());
    Err(UserError::new(
        format!("{name} is {value}"),
        mend.trim_end(),
    ))
}

/// Trims the prompt and turns control characters into blanks, and any run of blanks into one.
fn check_prompt(prompt: &str) -> Result<String> {
    let clean = check_lines(prompt)?;
    Ok(clean.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// As for other prompts, but lines stay apart: for models to which the parts of a prompt are lines.
///
/// # Errors
/// When the prompt is empty or too long.
pub fn check_lines(prompt: &str) -> Result<String> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(UserError::new(
            format!("the prompt is {} bytes long", prompt.len()),
            format!("shorten it to {MAX_PROMPT_BYTES}"),
        ));
    }
    let line = |line: &str| {
        let blank = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = line.chars().map(blank).collect();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = prompt.lines().map(line).collect();
    let clean = lines.join("\n").trim().to_string();
    if clean.is_empty() {
        return Err(UserError::new(
            "the prompt is empty",
            "say what to show, for instance \"a red basketball bounces on a wooden court\"",
        ));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            prompt: " a\tball\u{7}\n".into(),
            duration: 5.0,
            ratio: "16:9".parse().unwrap(),
            resolution: "256p".parse().unwrap(),
            seed: 0,
            steps: 8,
            guidance: 1.0,
            audio: true,
        }
    }

    #[test]
    fn sizes_follow_from_ratio() {
        let size = |r: &str, q: &str| {
            let s = r.parse::<Resolution>().unwrap().size(q.parse().unwrap());
            (s.width, s.height)
        };
        assert_eq!(size("256p", "16:9"), (448, 256));
        assert_eq!(size("256p", "9:16"), (256, 448));
        assert_eq!(size("256p", "1:1"), (256, 256));
        assert_eq!(size("128p", "4:3"), (160, 128));
        assert_eq!(size("320x176", "1:1"), (320, 176));
    }

    #[test]
    fn a_plan_cleans_the_prompt_and_counts_frames() {
        let plan = Plan::new(request(), Strides::FOAL, &[]).unwrap();
        assert_eq!(plan.request.prompt, "a ball");
        assert_eq!(plan.clip.frames, 120);
        assert_eq!(plan.latents.frames, 31);
    }

    #[test]
    fn a_model_draws_the_nearest_of_its_own_shapes() {
        let makes = [(168, 96), (104, 176), (104, 96)].map(|(w, h)| PixelSize::new(w, h));
        let base = |text: &str, ratio: &str, makes: &[PixelSize]| {
            let resolution = text.parse::<Resolution>().unwrap();
            let size = base_size(resolution.size(ratio.parse().unwrap()), makes);
            (size.width, size.height)
        };
        assert_eq!(base("256p", "16:9", &makes), (168, 96));
        assert_eq!(base("1080p", "9:16", &makes), (104, 176));
        assert_eq!(base("256p", "1:1", &makes), (104, 96));
        assert_eq!(base("64x64", "16:9", &makes), (104, 96));
        assert_eq!(base("1920x64", "16:9", &makes), (168, 96));
        assert_eq!(base("256p", "16:9", &[]), (448, 256));
        let plan = Plan::new(request(), Strides::FOAL, &makes).unwrap();
        assert_eq!(plan.clip.size, PixelSize::new(448, 256));
        assert_eq!((plan.latents.width, plan.latents.height), (11, 6));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (change, name) in [
            (
                Box::new(|r: &mut Request| r.duration = 0.5) as Box<dyn Fn(&mut Request)>,
                "--duration",
            ),
            (Box::new(|r| r.duration = f64::NAN), "--duration"),
            (Box::new(|r| r.steps = 0), "--steps"),
            (Box::new(|r| r.guidance = -1.0), "--guidance"),
            (
                Box::new(|r| r.prompt = "\u{1}\n ".into()),
                "prompt is empty",
            ),
            (Box::new(|r| r.prompt = "x".repeat(100_000)), "100000 bytes"),
        ] {
            let mut asked = request();
            change(&mut asked);
            let error = Plan::new(asked, Strides::FOAL, &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(name), "{error}");
        }
        for text in ["", "p", "7p", "1x1", "30000x30000", "257p", "axb"] {
            assert!(text.parse::<Resolution>().is_err(), "{text}");
        }
    }
}
