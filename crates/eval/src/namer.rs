//! What a thing is and of what colour: a small network that looks at cut-outs of it, and listens.

use gallop_core::Frame;
use rayon::prelude::*;

use crate::classifier::Scale;
use crate::net::{Adam, Layer, Map, Net, Noise, softmax};

/// Side of a cut-out, pixels.
pub const SIDE: usize = 32;
/// Half a cut-out's side, in halves of the thing's longer side: some of what is around it shows
/// in what light it is.
const MARGIN: f32 = 1.4;
/// Numbers that the network makes of a cut-out.
const LOOKS: usize = 56;
/// Cut-outs of one thing that are shown at once in learning.
const AT_ONCE: usize = 3;
/// Planes that the network sees: colours, and how far inside the thing a pixel is.
const PLANES: usize = 4;
/// Numbers between looks and names.
const HIDDEN: usize = 48;

/// The part that looks at cut-outs.
pub const TRUNK: [Layer; 4] = [
    Layer::conv(PLANES, 20, 5).stride(2),
    Layer::conv(20, 32, 3),
    Layer::conv(32, LOOKS, 3).stride(2),
    Layer::conv(LOOKS, LOOKS, 3).residual(1),
];

/// A square of a picture about a thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    /// `3 x SIDE x SIDE` bytes.
    pub rgb: Vec<u8>,
    /// Half the thing's sides, in halves of the square's side.
    pub half: [f32; 2],
}

/// One thing of a clip, as it is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thing {
    /// Cut-outs at different times.
    pub cuts: Vec<Cut>,
    /// What it is painted in ([`crate::paint`]).
    pub paint: Vec<f32>,
    /// For how long it is there, frames.
    pub frames: usize,
}

/// A thing to learn from.
#[derive(Clone, Debug)]
pub struct Lesson<'a> {
    /// Its cut-outs.
    pub thing: &'a Thing,
    /// What else is known of it and of the clip (paint, sound, light); empty where nothing is.
    pub around: Vec<f32>,
    /// Index of the true name.
    pub name: usize,
}

/// How lessons are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Study {
    /// Times that each is shown.
    pub rounds: usize,
    /// Share that is shown without what else is known, so that the looks alone must do too.
    pub deaf: f32,
    /// Share that is shown in other colours and turned: what the name does not depend on.
    pub altered: f32,
}

/// Names things: the mean over cut-outs of what the trunk makes of them, and what is known of the
/// clip, to the probabilities of the classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Namer {
    /// What can be named.
    pub classes: Vec<String>,
    /// Brings what is known of the clip to a common scale.
    pub scale: Scale,
    /// Looks at cut-outs.
    pub trunk: Net,
    /// Decides.
    pub head: Net,
}

impl Cut {
    /// How far inside the thing's ellipse a pixel is: 1 its middle, 0 its edge, less outside.
    pub fn inside(&self, row: usize, column: usize) -> f32 {
        let place = |i: usize| (i as f32 + 0.5) / (0.5 * SIDE as f32) - 1.0;
        let [x, y] = [(column, 0), (row, 1)].map(|(i, k)| place(i) / self.half[k].max(0.02));
        1.0 - x * x - y * y
    }
}

/// The square about a thing at `at` (pixels of the frame) with half sides `half`.
pub fn cut_out(frame: &Frame, at: [f32; 2], half: [f32; 2]) -> Cut {
    let reach = MARGIN * half[0].max(half[1]).max(1.0);
    let step = 2.0 * reach / SIDE as f32;
    // Several samples a pixel where the picture is finer than the cut-out.
    let fine = (step.ceil() as usize).clamp(1, 6);
    let (w, h) = (frame.size.width, frame.size.height);
    let mut out = vec![0u8; 3 * SIDE * SIDE];
    for row in 0..SIDE {
        for column in 0..SIDE {
            let mut sum = [0.0f32; 3];
            for k in 0..fine * fine {
                let within =
                    |i: usize, k: usize| (i as f32 + (k as f32 + 0.5) / fine as f32) * step;
                let x = at[0] - reach + within(column, k % fine) - 0.5;
                let y = at[1] - reach + within(row, k / fine) - 0.5;
                let colour = between(frame, (x, y), (w, h));
                sum.iter_mut().zip(colour).for_each(|(s, c)| *s += c);
            }
            for (c, s) in sum.iter().enumerate() {
                out[c * SIDE * SIDE + row * SIDE + column] =
                    (s / (fine * fine) as f32).round() as u8;
            }
        }
    }
    Cut {
        rgb: out,
        half: half.map(|h| h / reach),
    }
}

/// The colour between pixels, edges repeated.
pub(crate) fn between(frame: &Frame, (x, y): (f32, f32), (w, h): (usize, usize)) -> [f32; 3] {
    let x = x.clamp(0.0, (w - 1) as f32);
    let y = y.clamp(0.0, (h - 1) as f32);
    let (x0, y0) = (x as usize, y as usize);
    let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
    let (fx, fy) = (x - x0 as f32, y - y0 as f32);
    let corners = [
        (frame.pixel(x0, y0), (1.0 - fx) * (1.0 - fy)),
        (frame.pixel(x1, y0), fx * (1.0 - fy)),
        (frame.pixel(x0, y1), (1.0 - fx) * fy),
        (frame.pixel(x1, y1), fx * fy),
    ];
    [0, 1, 2].map(|c| corners.iter().map(|(p, s)| s * f32::from(p[c])).sum())
}

fn picture(cut: &Cut) -> Map {
    let mut map = Map::zeros(PLANES, SIDE, SIDE);
    for (v, b) in map.values.iter_mut().zip(&cut.rgb) {
        *v = f32::from(*b) / 127.5 - 1.0;
    }
    let inside = &mut map.values[3 * SIDE * SIDE..];
    for (i, v) in inside.iter_mut().enumerate() {
        *v = cut.inside(i / SIDE, i % SIDE).clamp(-1.0, 1.0);
    }
    map
}

/// Mirrored half of the time, slightly brighter or darker; if `altered`, its colours exchanged and
/// sometimes laid on its side or head.
fn varied(cut: &Cut, altered: bool, noise: &mut Noise) -> Map {
    let mut map = picture(cut);
    let gain = 1.0 + 0.04 * noise.gaussian();
    let grain = 0.03 * noise.uniform();
    map.values[..3 * SIDE * SIDE]
        .iter_mut()
        .for_each(|v| *v = gain * *v + grain * (2.0 * noise.uniform() - 1.0));
    if noise.uniform() < 0.5 {
        map.values.chunks_mut(SIDE).for_each(<[f32]>::reverse);
    }
    if altered {
        alter(&mut map, noise);
    }
    map
}

fn alter(map: &mut Map, noise: &mut Noise) {
    let area = SIDE * SIDE;
    let from = map.values.clone();
    let order = noise.order(3);
    let (tipped, turned) = (noise.uniform() < 0.3, noise.uniform() < 0.3);
    for (plane, to) in map.values.chunks_mut(area).enumerate() {
        let from = &from[order.get(plane).copied().unwrap_or(plane) * area..][..area];
        for (i, v) in to.iter_mut().enumerate() {
            let (mut row, mut column) = (i / SIDE, i % SIDE);
            if tipped {
                row = SIDE - 1 - row;
            }
            if turned {
                (row, column) = (column, row);
            }
            *v = from[row * SIDE + column];
        }
    }
}

fn pool(out: &Map) -> Vec<f32> {
    let area = out.area();
    out.values
        .chunks(area)
        .map(|plane| plane.iter().sum::<f32>() / area as f32)
        .collect()
}

impl Namer {
    /// The deciding part for so many numbers about a clip and so many names.
    pub fn head_layers(around: usize, classes: usize) -> [Layer; 2] {
        [
            Layer::conv(LOOKS + around, HIDDEN, 1),
            Layer::conv(HIDDEN, classes, 1).linear(),
        ]
    }

    /// A namer that knows nothing yet of things with `around` numbers about their clip.
    fn new(classes: Vec<String>, scale: Scale) -> Self {
        let head = Self::head_layers(scale.len(), classes.len());
        Self {
            trunk: Net::new(&TRUNK, 21),
            head: Net::new(&head, 22),
            classes,
            scale,
        }
    }

    /// Log probabilities of the classes for one thing.
    pub fn name(&self, thing: &Thing, around: &[f32]) -> Vec<f32> {
        let mut looks = vec![0.0f32; LOOKS];
        for cut in &thing.cuts {
            let seen = pool(&self.trunk.run(picture(cut)));
            for (sum, v) in looks.iter_mut().zip(seen) {
                *sum += v / thing.cuts.len() as f32;
            }
        }
        looks.extend(self.scale.apply(around));
        let logits = self.head.run(Map::column(looks)).values;
        softmax(&logits).iter().map(|p| (p + 1e-6).ln()).collect()
    }

    /// Learns from `lessons`. `report` as for [`crate::finder::Finder::learn`].
    pub fn learn(
        classes: Vec<String>,
        lessons: &[Lesson],
        study: Study,
        mut report: impl FnMut(usize, f32) -> bool,
    ) -> Self {
        const BATCH: usize = 32;
        let around = lessons.iter().map(|l| &l.around[..]);
        let around: Vec<&[f32]> = around.filter(|a| !a.is_empty()).collect();
        let mut namer = Self::new(classes, Scale::of(&around));
        let batches = (lessons.len() * study.rounds).div_ceil(BATCH);
        let (trunk, head) = (namer.trunk.weights().len(), namer.head.weights().len());
        let mut adams = [
            Adam::new(trunk, 3e-3, 1e-3, batches),
            Adam::new(head, 3e-3, 1e-2, batches),
        ];
        let mut noise = Noise::new(23);
        let mut order: Vec<usize> = Vec::new();
        for batch in 0..batches {
            let picked: Vec<(usize, Noise)> = (0..BATCH)
                .map(|k| {
                    if order.is_empty() {
                        order = noise.order(lessons.len());
                    }
                    let one = order.pop().unwrap_or(0);
                    (one, Noise::new((batch * BATCH + k) as u64))
                })
                .collect();
            let passes: Vec<(f32, [Vec<f32>; 2])> = picked
                .into_par_iter()
                .map(|(i, mut noise)| namer.pass(&lessons[i], study, &mut noise))
                .collect();
            let mut sums = [vec![0.0; trunk], vec![0.0; head]];
            let mut loss = 0.0;
            for (one, gradients) in &passes {
                loss += one / BATCH as f32;
                for (sum, gradient) in sums.iter_mut().zip(gradients) {
                    for (s, g) in sum.iter_mut().zip(gradient) {
                        *s += g / BATCH as f32;
                    }
                }
            }
            adams[0].step(namer.trunk.weights_mut(), &sums[0]);
            adams[1].step(namer.head.weights_mut(), &sums[1]);
            if !report(batch, loss) {
                break;
            }
        }
        namer
    }

    /// Loss and gradients of one lesson.
    fn pass(&self, lesson: &Lesson, study: Study, noise: &mut Noise) -> (f32, [Vec<f32>; 2]) {
        let cuts = &lesson.thing.cuts;
        let shown = AT_ONCE.min(cuts.len());
        let order = noise.order(cuts.len());
        let altered = noise.uniform() < study.altered;
        let traces: Vec<_> = order[..shown]
            .iter()
            .map(|&c| self.trunk.trace(varied(&cuts[c], altered, noise)))
            .collect();
        let mut looks = vec![0.0f32; LOOKS];
        for trace in &traces {
            for (sum, v) in looks.iter_mut().zip(pool(&trace.out)) {
                *sum += v / shown as f32;
            }
        }
        let mut around = self.scale.apply(&lesson.around);
        if around.is_empty() || noise.uniform() < study.deaf {
            around = vec![0.0; self.scale.len()];
        }
        around.iter_mut().for_each(|v| *v += 0.1 * noise.gaussian());
        looks.extend(around);
        let decided = self.head.trace(Map::column(looks));
        let mut d = softmax(&decided.out.values);
        let loss = -(d[lesson.name] + 1e-9).ln();
        d[lesson.name] -= 1.0;
        let mut gradients = [
            vec![0.0; self.trunk.weights().len()],
            vec![0.0; self.head.weights().len()],
        ];
        let d_looks = self.head.back(&decided, d, &mut gradients[1]);
        for trace in &traces {
            let area = trace.out.area();
            let share = 1.0 / (shown * area) as f32;
            let d_out = d_looks[..LOOKS]
                .iter()
                .flat_map(|&v| std::iter::repeat_n(v * share, area))
                .collect();
            self.trunk.back(trace, d_out, &mut gradients[0]);
        }
        (loss, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::PixelSize;

    /// A ball with or without a white stripe, red or blue.
    fn ball(striped: bool, red: bool, noise: &mut Noise) -> Thing {
        let cuts = (0..4)
            .map(|_| {
                let size = PixelSize::new(64, 48);
                let mut frame = Frame::black(size);
                let at = [20.0 + 20.0 * noise.uniform(), 20.0 + 8.0 * noise.uniform()];
                let (r, lean) = (8.0 + 4.0 * noise.uniform(), 2.0 * noise.uniform() - 1.0);
                for y in 0..48 {
                    for x in 0..64 {
                        let (dx, dy) = (x as f32 + 0.5 - at[0], y as f32 + 0.5 - at[1]);
                        let paint = if red { [200, 40, 40] } else { [40, 40, 200] };
                        let colour = match (dx.hypot(dy) < r, striped) {
                            (false, _) => [120; 3],
                            (true, true) if (dy + lean * dx).abs() < 2.0 => [230; 3],
                            _ => paint,
                        };
                        frame.rgb[(y * 64 + x) * 3..][..3].copy_from_slice(&colour);
                    }
                }
                cut_out(&frame, at, [r, r])
            })
            .collect();
        Thing {
            cuts,
            paint: Vec::new(),
            frames: 4,
        }
    }

    #[test]
    fn stripes_and_sounds_are_told_apart() {
        let mut noise = Noise::new(4);
        // What it is called depends on its stripe and on a sound, whatever its colour.
        let mut draw = |n: usize| -> Vec<(Thing, Vec<f32>, usize)> {
            (0..n)
                .map(|i| {
                    let (striped, loud) = (i % 2 == 0, i % 4 < 2);
                    let thing = ball(striped, noise.uniform() < 0.5, &mut noise);
                    let sound = vec![if loud { 1.0 } else { 0.0 } + 0.1 * noise.gaussian()];
                    (thing, sound, usize::from(striped) + 2 * usize::from(loud))
                })
                .collect()
        };
        let lessons = draw(160);
        let lessons: Vec<Lesson> = lessons
            .iter()
            .map(|(thing, around, name)| Lesson {
                thing,
                around: around.clone(),
                name: *name,
            })
            .collect();
        let classes = ["a", "b", "c", "d"].map(String::from).to_vec();
        let study = Study {
            rounds: 24,
            deaf: 0.0,
            altered: 0.3,
        };
        let namer = Namer::learn(classes, &lessons, study, |_, _| true);
        let right = draw(60)
            .iter()
            .filter(|(thing, around, name)| {
                let scores = namer.name(thing, around);
                (0..4).all(|c| scores[c] <= scores[*name])
            })
            .count();
        assert!(right >= 55, "{right} of 60");
    }
}
