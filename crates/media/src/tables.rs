//! The tables of an MP4 track: sizes, places and times of its packets.

use crate::parts::{Bytes, Read, Wrong, child};

/// Most packets a track may have.
const MAX_PACKETS: usize = 4_000_000;

/// One packet and when it is shown or heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PacketIn {
    pub offset: usize,
    pub size: usize,
    /// Units of the track.
    pub time: i64,
    pub duration: u32,
}

/// The packets of a track, each inside a file of `file` bytes.
pub(crate) fn packets(stbl: &[u8], file: usize) -> Read<Vec<PacketIn>> {
    let table = |kind| Ok::<_, Wrong>(child(stbl, kind)?.map(Bytes));
    let sizes = sizes(&table(b"stsz")?.ok_or(Wrong::Damaged)?)?;
    let offsets = offsets(table(b"stco")?, table(b"co64")?)?;
    let chunks = table(b"stsc")?.ok_or(Wrong::Damaged)?;
    let mut packets = place(&sizes, &offsets, &chunks, file)?;
    let stts = table(b"stts")?.ok_or(Wrong::Damaged)?;
    let mut durations = Runs::new(&stts);
    let ctts = table(b"ctts")?;
    let mut shifts = ctts.as_ref().map(Runs::new);
    let mut time = 0i64;
    for packet in &mut packets {
        let shift = match &mut shifts {
            Some(shifts) => shifts.next()? as i32,
            None => 0,
        };
        packet.duration = durations.next()?;
        packet.time = time + i64::from(shift);
        time += i64::from(packet.duration);
    }
    Ok(packets)
}

fn sizes(stsz: &Bytes) -> Read<Vec<usize>> {
    let (same, count) = (stsz.u32(4)? as usize, stsz.u32(8)? as usize);
    if count > MAX_PACKETS {
        return Err(Wrong::Damaged);
    }
    match same {
        0 => (0..count)
            .map(|i| Ok(stsz.u32(12 + 4 * i)? as usize))
            .collect(),
        _ => Ok(vec![same; count]),
    }
}

fn offsets(stco: Option<Bytes>, co64: Option<Bytes>) -> Read<Vec<u64>> {
    match (stco, co64) {
        (Some(table), _) => (0..table.count(4)?)
            .map(|i| Ok(u64::from(table.u32(8 + 4 * i)?)))
            .collect(),
        (None, Some(table)) => (0..table.count(8)?).map(|i| table.u64(8 + 8 * i)).collect(),
        (None, None) => Err(Wrong::Damaged),
    }
}

/// Packets in their chunks, each inside the file.
fn place(sizes: &[usize], offsets: &[u64], stsc: &Bytes, file: usize) -> Read<Vec<PacketIn>> {
    let runs = stsc.count(12)?;
    let mut packets = Vec::with_capacity(sizes.len());
    let (mut run, mut sizes) = (0, sizes.iter());
    for (chunk, &offset) in offsets.iter().enumerate() {
        while run + 1 < runs && stsc.u32(8 + 12 * (run + 1))? as usize <= chunk + 1 {
            run += 1;
        }
        let mut at = usize::try_from(offset).map_err(|_| Wrong::Damaged)?;
        for _ in 0..stsc.u32(12 + 12 * run)? {
            let Some(&size) = sizes.next() else { break };
            if at.checked_add(size).is_none_or(|end| end > file) {
                return Err(Wrong::CutShort);
            }
            packets.push(PacketIn {
                offset: at,
                size,
                time: 0,
                duration: 0,
            });
            at += size;
        }
    }
    match sizes.next() {
        None => Ok(packets),
        Some(_) => Err(Wrong::Damaged),
    }
}

/// Values of a table of (count, value) pairs, one by one.
struct Runs<'a> {
    table: &'a Bytes<'a>,
    index: usize,
    left: u32,
}

impl<'a> Runs<'a> {
    fn new(table: &'a Bytes<'a>) -> Self {
        Self {
            table,
            index: 0,
            left: 0,
        }
    }

    fn next(&mut self) -> Read<u32> {
        while self.left == 0 {
            self.index += 1;
            if self.index > self.table.count(8)? {
                return Err(Wrong::Damaged);
            }
            self.left = self.table.u32(8 * self.index)?;
        }
        self.left -= 1;
        self.table.u32(8 * self.index + 4)
    }
}
