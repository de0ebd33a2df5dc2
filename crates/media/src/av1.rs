//! AV1 through rav1e, at constant quality.

use std::collections::VecDeque;

use gallop_core::{Frame, PixelSize};
use rav1e::prelude::*;

use crate::yuv::from_rgb;

/// Quantiser, of 255; 60 is hard to tell from the source.
const QUANTIZER: usize = 60;
/// Of 10: without its assembly rav1e is slow, and slower settings gain little at this quality.
const SPEED: u8 = 10;
/// Seconds between pictures that can be decoded alone.
const KEY_SECONDS: u64 = 2;

/// One encoded picture, in order of showing.
pub(crate) struct Encoded {
    pub data: Vec<u8>,
    pub key: bool,
}

/// An encoder that looks some pictures ahead; equal pictures give equal bytes.
pub(crate) struct Encoder {
    context: Context<u8>,
    ready: VecDeque<Encoded>,
}

impl Encoder {
    /// An encoder for `fps` pictures a second of `size`, both sides 16 or more; the error is rav1e's
    /// message.
    pub fn new(size: PixelSize, fps: usize) -> Result<Self, String> {
        let mut config = EncoderConfig::with_speed_preset(SPEED);
        config.width = size.width;
        config.height = size.height;
        config.time_base = Rational::new(1, fps as u64);
        config.chroma_sampling = ChromaSampling::Cs420;
        config.chroma_sample_position = ChromaSamplePosition::Vertical;
        config.pixel_range = PixelRange::Limited;
        config.color_description = Some(ColorDescription {
            color_primaries: ColorPrimaries::BT709,
            transfer_characteristics: TransferCharacteristics::BT709,
            matrix_coefficients: MatrixCoefficients::BT709,
        });
        config.quantizer = QUANTIZER;
        config.set_key_frame_interval(1, KEY_SECONDS * fps as u64);
        // A fixed number of tiles: what is encoded must not depend on the number of cores.
        config.tiles = if size.width * size.height > 300_000 {
            4
        } else {
            2
        };
        let context = Config::new()
            .with_encoder_config(config)
            .new_context()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            context,
            ready: VecDeque::new(),
        })
    }

    /// The `av1C` bytes that a container needs.
    pub fn config(&self) -> Vec<u8> {
        self.context.container_sequence_header()
    }

    /// Takes the next picture; some pictures later it comes out of [`Encoder::next`].
    pub fn push(&mut self, frame: &Frame) -> Result<(), String> {
        let yuv = from_rgb(frame);
        let mut picture = self.context.new_frame();
        let chroma = yuv.width / 2;
        picture.planes[0].copy_from_raw_u8(&yuv.y, yuv.width, 1);
        picture.planes[1].copy_from_raw_u8(&yuv.u, chroma, 1);
        picture.planes[2].copy_from_raw_u8(&yuv.v, chroma, 1);
        self.context
            .send_frame(picture)
            .map_err(|error| error.to_string())?;
        self.collect()
    }

    /// Encodes what is still waiting.
    pub fn flush(&mut self) -> Result<(), String> {
        self.context.flush();
        self.collect()
    }

    /// The next finished picture.
    pub fn next(&mut self) -> Option<Encoded> {
        self.ready.pop_front()
    }

    fn collect(&mut self) -> Result<(), String> {
        loop {
            match self.context.receive_packet() {
                Ok(packet) => self.ready.push_back(Encoded {
                    data: packet.data,
                    key: packet.frame_type == FrameType::KEY,
                }),
                Err(EncoderStatus::Encoded) => {}
                Err(EncoderStatus::NeedMoreData | EncoderStatus::LimitReached) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
