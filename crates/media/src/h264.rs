//! H.264 through OpenH264, by its C interface: the safe wrapper cannot ask for CABAC or a constant quantiser.

use std::ptr::null_mut;

use gallop_core::PixelSize;
use openh264_sys2 as sys;
use sys::source::APILoader as OpenH264;

use crate::yuv::Yuv;

/// Quantiser of every picture; 18 is hard to tell from the source.
const QP: i32 = 18;
/// Pictures from one that can be decoded alone to the next: two seconds.
const KEY_INTERVAL: u32 = 48;
/// Longest and shortest side that OpenH264 codes.
pub(crate) const MAX_SIDES: [usize; 2] = [3840, 2160];

/// One encoded picture: NAL units with four-byte lengths before them, parameter sets taken out.
pub(crate) struct Encoded {
    pub data: Vec<u8>,
    pub key: bool,
}

/// A constant-quality encoder, Main profile, one slice a picture and no reordering;
/// single-threaded, so that equal pictures give equal bytes.
pub(crate) struct Encoder {
    raw: *mut sys::ISVCEncoder,
    size: PixelSize,
    info: Box<sys::SFrameBSInfo>,
    /// Sequence parameter set, from the first picture on.
    pub sps: Vec<u8>,
    /// Picture parameter set, from the first picture on.
    pub pps: Vec<u8>,
}

// SAFETY: the encoder owns all it points to and is used by one thread at a time.
unsafe impl Send for Encoder {}

impl Encoder {
    /// An encoder for `fps` pictures a second of `size`, both sides even; the error is OpenH264's code.
    pub fn new(size: PixelSize, fps: usize) -> Result<Self, i32> {
        let mut raw: *mut sys::ISVCEncoder = null_mut();
        // SAFETY: `raw` receives an encoder that `drop` destroys.
        check(unsafe { OpenH264::WelsCreateSVCEncoder(&raw mut raw) })?;
        let encoder = Self {
            raw,
            size,
            info: Box::default(),
            sps: Vec::new(),
            pps: Vec::new(),
        };
        let table = encoder.table();
        let mut params = sys::SEncParamExt::default();
        let mut quiet = sys::WELS_LOG_QUIET;
        // SAFETY: the encoder lives, and the calls only read and write `quiet` and `params`.
        unsafe {
            let set = table.SetOption.ok_or(-1)?;
            let level = (&raw mut quiet).cast();
            check(set(raw, sys::ENCODER_OPTION_TRACE_LEVEL, level))?;
            let defaults = table.GetDefaultParams.ok_or(-1)?;
            check(defaults(raw, &raw mut params))?;
            fill(&mut params, size, fps);
            let initialize = table.InitializeExt.ok_or(-1)?;
            check(initialize(raw, &raw const params))?;
        }
        Ok(encoder)
    }

    fn table(&self) -> &sys::ISVCEncoderVtbl {
        // SAFETY: a created encoder points to its table of functions, which is static.
        unsafe { &**self.raw }
    }

    /// Encodes the next picture; the error is OpenH264's code.
    pub fn encode(&mut self, yuv: &Yuv) -> Result<Encoded, i32> {
        let stride = self.size.width as i32;
        let source = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iStride: [stride, stride / 2, stride / 2, 0],
            // The encoder only reads from the planes.
            pData: [
                yuv.y.as_ptr().cast_mut(),
                yuv.u.as_ptr().cast_mut(),
                yuv.v.as_ptr().cast_mut(),
                null_mut(),
            ],
            iPicWidth: stride,
            iPicHeight: self.size.height as i32,
            uiTimeStamp: 0,
            bPsnrY: false,
            bPsnrU: false,
            bPsnrV: false,
        };
        let encode = self.table().EncodeFrame.ok_or(-1)?;
        // SAFETY: the planes have the announced size and outlive the call.
        check(unsafe { encode(self.raw, &raw const source, &raw mut *self.info) })?;
        Ok(self.collect())
    }

    /// Takes the NAL units out of the encoder's buffers.
    fn collect(&mut self) -> Encoded {
        let mut data = Vec::with_capacity(self.info.iFrameSizeInBytes.max(0) as usize);
        for layer in &self.info.sLayerInfo[..self.info.iLayerNum.max(0) as usize] {
            let mut start = 0;
            for nal in 0..layer.iNalCount.max(0) as usize {
                // SAFETY: the encoder says how many units the layer has and how long each is.
                let unit = unsafe {
                    let size = *layer.pNalLengthInByte.add(nal) as usize;
                    std::slice::from_raw_parts(layer.pBsBuf.add(start), size)
                };
                start += unit.len();
                let unit = without_start_code(unit);
                match unit.first().map(|byte| byte & 31) {
                    Some(7) => self.sps = unit.to_vec(),
                    Some(8) => self.pps = unit.to_vec(),
                    _ => {
                        data.extend((unit.len() as u32).to_be_bytes());
                        data.extend(unit);
                    }
                }
            }
        }
        Encoded {
            data,
            key: self.info.eFrameType == sys::videoFrameTypeIDR,
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once, used no more.
        unsafe {
            if let Some(uninitialize) = self.table().Uninitialize {
                uninitialize(self.raw);
            }
            OpenH264::WelsDestroySVCEncoder(self.raw);
        }
    }
}

fn check(code: i32) -> Result<(), i32> {
    match code {
        0 => Ok(()),
        code => Err(code),
    }
}

fn fill(params: &mut sys::SEncParamExt, size: PixelSize, fps: usize) {
    let (width, height) = (size.width as i32, size.height as i32);
    params.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
    params.iComplexityMode = sys::MEDIUM_COMPLEXITY;
    params.iPicWidth = width;
    params.iPicHeight = height;
    params.fMaxFrameRate = fps as f32;
    // Without rate control the quantiser is the layer's, and no picture is ever skipped.
    params.iRCMode = sys::RC_OFF_MODE;
    params.bEnableFrameSkip = false;
    params.bEnableAdaptiveQuant = false;
    params.bEnableBackgroundDetection = false;
    params.bEnableSceneChangeDetect = true;
    params.iEntropyCodingModeFlag = 1;
    params.uiIntraPeriod = KEY_INTERVAL;
    params.eSpsPpsIdStrategy = sys::CONSTANT_ID;
    params.iMultipleThreadIdc = 1;
    params.iSpatialLayerNum = 1;
    params.iTemporalLayerNum = 1;
    let layer = &mut params.sSpatialLayers[0];
    layer.iVideoWidth = width;
    layer.iVideoHeight = height;
    layer.fFrameRate = fps as f32;
    layer.uiProfileIdc = sys::PRO_MAIN;
    layer.uiLevelIdc = level(size);
    layer.iDLayerQp = QP;
    layer.sSliceArgument.uiSliceMode = sys::SM_SINGLE_SLICE;
    layer.sSliceArgument.uiSliceNum = 1;
    // BT.709 primaries, transfer and matrix, limited range.
    layer.bVideoSignalTypePresent = true;
    layer.uiVideoFormat = 5;
    layer.bFullRange = false;
    layer.bColorDescriptionPresent = true;
    layer.uiColorPrimaries = 1;
    layer.uiTransferCharacteristics = 1;
    layer.uiColorMatrix = 1;
}

/// A level with room for constant quality at the size: 4.1 allows 50 Mbit/s.
fn level(size: PixelSize) -> sys::ELevelIdc {
    let blocks = size.width.div_ceil(16) * size.height.div_ceil(16);
    match blocks {
        0..=8192 => sys::LEVEL_4_1,
        _ => sys::LEVEL_5_1,
    }
}

/// A NAL unit without the `00 00 01` or `00 00 00 01` before it.
fn without_start_code(unit: &[u8]) -> &[u8] {
    let zeros = unit.iter().take_while(|&&byte| byte == 0).count();
    match unit.get(zeros) {
        Some(1) if zeros >= 2 => &unit[zeros + 1..],
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yuv::from_rgb;
    use gallop_core::Frame;

    #[test]
    fn pictures_become_units_with_lengths_and_equal_input_gives_equal_bytes() {
        let frame = Frame::black(PixelSize::new(64, 48));
        let run = || {
            let mut encoder = Encoder::new(frame.size, 24).unwrap();
            let encoded: Vec<_> = (0..3)
                .map(|_| encoder.encode(&from_rgb(&frame)).unwrap())
                .collect();
            assert_eq!(encoder.sps[0] & 31, 7);
            assert_eq!(encoder.pps[0] & 31, 8);
            encoded
        };
        let (first, second) = (run(), run());
        assert!(first[0].key && !first[1].key);
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(a.data, b.data);
            let length = u32::from_be_bytes(a.data[..4].try_into().unwrap());
            assert_eq!(length as usize + 4, a.data.len());
        }
    }

    #[test]
    fn start_codes_are_cut() {
        assert_eq!(without_start_code(&[0, 0, 0, 1, 9, 0]), [9, 0]);
        assert_eq!(without_start_code(&[0, 0, 1, 9]), [9]);
        assert_eq!(without_start_code(&[9, 1]), [9, 1]);
        assert!(without_start_code(&[]).is_empty());
    }
}
