//! AAC-LC through FDK: frames of 1024 samples, 2048 samples of delay.

use fdk_aac::enc;
use gallop_core::{Audio, SAMPLE_RATE};

/// Samples a channel in one frame.
pub(crate) const FRAME: usize = 1024;
/// Bits a second for both channels: transparent for nearly everything.
pub(crate) const BITS_PER_SECOND: u32 = 256_000;

/// A stereo encoder at [`SAMPLE_RATE`].
pub(crate) struct Encoder {
    raw: enc::Encoder,
    /// Samples by which the decoded sound is late.
    pub delay: usize,
    /// AudioSpecificConfig, for the decoder.
    pub config: Vec<u8>,
    /// Interleaved samples that do not fill a frame yet.
    waiting: Vec<i16>,
    buffer: Vec<u8>,
}

impl Encoder {
    /// An encoder; the error is FDK's message.
    pub fn new() -> Result<Self, String> {
        let raw = enc::Encoder::new(enc::EncoderParams {
            bit_rate: enc::BitRate::Cbr(BITS_PER_SECOND),
            sample_rate: SAMPLE_RATE as u32,
            transport: enc::Transport::Raw,
            channels: enc::ChannelMode::Stereo,
            audio_object_type: enc::AudioObjectType::Mpeg4LowComplexity,
        })
        .map_err(|error| error.to_string())?;
        let info = raw.info().map_err(|error| error.to_string())?;
        Ok(Self {
            raw,
            delay: info.nDelay as usize,
            config: info.confBuf[..info.confSize as usize].to_vec(),
            waiting: Vec::new(),
            buffer: vec![0; info.maxOutBufBytes as usize],
        })
    }

    /// Encodes more sound; `out` gets each finished frame.
    pub fn push<E>(
        &mut self,
        audio: &Audio,
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<String>,
    {
        let sixteen = |x: f32| (x.clamp(-1.0, 1.0) * 32767.0).round() as i16;
        let samples = audio.left.iter().zip(&audio.right);
        self.waiting
            .extend(samples.flat_map(|(&l, &r)| [sixteen(l), sixteen(r)]));
        let whole = self.waiting.len() / (2 * FRAME) * (2 * FRAME);
        for frame in self.waiting[..whole].chunks_exact(2 * FRAME) {
            let mut rest = frame;
            while !rest.is_empty() {
                let done = self.raw.encode(rest, &mut self.buffer);
                let done = done.map_err(|error| E::from(error.to_string()))?;
                if done.output_size > 0 {
                    out(&self.buffer[..done.output_size])?;
                }
                if done.input_consumed == 0 {
                    return Err(E::from("the encoder takes no more sound".to_string()));
                }
                rest = &rest[done.input_consumed.min(rest.len())..];
            }
        }
        self.waiting.drain(..whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_is_a_frame_out() {
        let mut encoder = Encoder::new().unwrap();
        assert_eq!(encoder.delay, 2048);
        let mut frames = 0;
        for samples in [100, 5000, 1024 * 9, 4] {
            encoder
                .push(&Audio::silence(samples), |frame| {
                    assert!(!frame.is_empty());
                    frames += 1;
                    Ok::<(), String>(())
                })
                .unwrap();
        }
        assert!((13..=14).contains(&frames), "{frames}");
    }
}
