//! Which rows of a packed sequence belong to which weights.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

/// Contiguous, disjoint row ranges, each with the index of the weight group that its rows use.
///
/// A group may own several ranges (several samples packed into one sequence); rows in no range give zeros.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    parts: Arc<[(Range<usize>, usize)]>,
    groups: usize,
}

impl Segments {
    /// Ranges with their groups, in any order. Empty ranges are dropped.
    ///
    /// # Errors
    /// If two ranges overlap, or one ends before it starts.
    pub fn new(mut parts: Vec<(Range<usize>, usize)>) -> Result<Self> {
        if let Some((rows, _)) = parts.iter().find(|(rows, _)| rows.start > rows.end) {
            bail!("segment {rows:?} ends before it starts");
        }
        parts.retain(|(rows, _)| !rows.is_empty());
        parts.sort_by_key(|(rows, _)| rows.start);
        for pair in parts.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                bail!("segments {:?} and {:?} overlap", pair[0].0, pair[1].0);
            }
        }
        let groups = parts.iter().map(|(_, group)| group + 1).max().unwrap_or(1);
        Ok(Self {
            parts: parts.into(),
            groups,
        })
    }

    /// All `rows` use the one group 0.
    pub fn single(rows: usize) -> Self {
        Self {
            parts: (rows > 0).then_some((0..rows, 0)).into_iter().collect(),
            groups: 1,
        }
    }

    /// With at least `groups` weight groups, for sequences in which the last groups have no rows.
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.groups = self.groups.max(groups);
        self
    }

    /// The ranges and their groups, in the order of the rows.
    pub fn parts(&self) -> &[(Range<usize>, usize)] {
        &self.parts
    }

    /// The number of weight groups: one more than the greatest group, at least 1, unless `with_groups` said more.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The number of rows that a sequence must at least have.
    pub fn end(&self) -> usize {
        self.parts.last().map_or(0, |(rows, _)| rows.end)
    }

    /// Whether each of so many rows lies in a range.
    pub fn covers(&self, rows: usize) -> bool {
        self.end() == rows
            && self
                .parts
                .iter()
                .map(|(range, _)| range.len())
                .sum::<usize>()
                == rows
    }

    /// The segments of some rows alone, counted from the first of them; with as many groups.
    pub fn window(&self, rows: Range<usize>) -> Self {
        let within = |at: usize| at.clamp(rows.start, rows.end) - rows.start;
        let parts = self
            .parts
            .iter()
            .map(|(r, g)| (within(r.start)..within(r.end), *g));
        Self {
            parts: parts.filter(|(r, _)| !r.is_empty()).collect(),
            groups: self.groups,
        }
    }

    /// The ranges of one group, in the order of the rows.
    pub fn of_group(&self, group: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts
            .iter()
            .filter(move |(_, g)| *g == group)
            .map(|(rows, _)| rows.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_sorted_and_empty_ones_dropped() {
        let s = Segments::new(vec![(5..9, 1), (3..3, 4), (0..5, 0)]).unwrap();
        assert_eq!(s.parts(), &[(0..5, 0), (5..9, 1)]);
        assert_eq!((s.groups(), s.end()), (2, 9));
        assert!(s.covers(9) && !s.covers(10));
        assert_eq!(s.of_group(1).collect::<Vec<_>>(), vec![5..9]);
    }

    #[test]
    fn a_window_is_counted_from_its_first_row() {
        let s = Segments::new(vec![(0..5, 1), (5..9, 0), (9..12, 2)]).unwrap();
        let window = s.window(3..8);
        assert_eq!(window.parts(), &[(0..2, 1), (2..5, 0)]);
        assert_eq!((window.groups(), window.end()), (3, 5));
        assert_eq!(s.window(0..12), s);
    }

    #[test]
    fn overlaps_are_refused() {
        assert!(Segments::new(vec![(0..5, 0), (4..6, 1)]).is_err());
        #[expect(clippy::reversed_empty_ranges)]
        let backwards = 5..4;
        assert!(Segments::new(vec![(backwards, 0)]).is_err());
    }

    #[test]
    fn no_rows_still_have_one_group() {
        assert_eq!(Segments::single(0).groups(), 1);
        assert_eq!(Segments::single(5).with_groups(3).groups(), 3);
    }
}
