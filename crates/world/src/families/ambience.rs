//! What is heard all around, apart from the subject.

use crate::attributes::{Attributes, TimeOfDay, Weather};
use crate::sound::{Bed, Cue, Sound};

/// Quiet backgrounds that fit the place, the weather and the hour.
pub fn ambience(attributes: &Attributes, indoor: bool) -> Vec<Cue> {
    let mut beds = Vec::new();
    if !indoor {
        match attributes.weather {
            Weather::Rain => beds.push((Bed::Rain, 0.45)),
            Weather::Snow => beds.push((Bed::Wind, 0.30)),
            Weather::Clear | Weather::Fog => {}
        }
        if attributes.place == "beach" {
            beds.push((Bed::Sea, 0.35));
        } else if attributes.time_of_day == TimeOfDay::Night
            && attributes.weather == Weather::Clear
            && matches!(attributes.place.as_str(), "garden" | "meadow" | "hills")
        {
            beds.push((Bed::Crickets, 0.35));
        }
    }
    beds.into_iter()
        .map(|(bed, strength)| Cue {
            time: 0.0,
            strength,
            pan: 0.0,
            sound: Sound::Bed(bed),
        })
        .collect()
}
