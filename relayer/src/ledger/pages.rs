//! Pages of what belongs to a reader's mandates, newest first. A page takes a limited amount of work however much there is
//! and however little of it matches: then it is shorter, and says where to go on.

use std::{
    collections::{BinaryHeap, VecDeque},
    fmt,
    str::FromStr,
};

use alloy_primitives::Address;
use rusqlite::Connection;
use stipend_core::MandateId;

use super::{
    LedgerError, mandates,
    sql::{Sql, Statements},
};

/// How many rows are looked at for a page.
const EXAMINED: u32 = 1_000;
/// How many mandates are merged. A reader with more gets what is of the newest so many first.
const MANDATES: u32 = 1_000;
/// How many places are read ahead of a mandate.
const AHEAD: u32 = 32;

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// With rows before this place …
    before: u64,
    /// … of mandates before that one.
    mandates: u64,
}

impl Cursor {
    const START: Self = Self { before: mandates::LAST, mandates: mandates::LAST };
}

/// The first number alone is the place of a row, as it is for most readers.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mandates {
            mandates::LAST => write!(f, "{}", self.before),
            mandates => write!(f, "{}.{mandates}", self.before),
        }
    }
}

/// Not a cursor of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let place = |text: &str| text.parse().ok().filter(|place| *place <= mandates::LAST).ok_or(CursorError);
        match text.split_once('.') {
            Some((before, mandates)) => Ok(Self { before: place(before)?, mandates: place(mandates)? }),
            None => Ok(Self { before: place(text)?, ..Self::START }),
        }
    }
}

/// What to list.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// What is of mandates of this agent or operator.
    pub reader: Address,
    /// Of this one alone.
    pub mandate: Option<MandateId>,
    pub cursor: Option<Cursor>,
    /// How many rows at most.
    pub limit: u32,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Where it goes on; `None`: this was the last.
    pub next: Option<Cursor>,
}

/// Merges what the reader's mandates have: `newest` gives the places of a mandate's rows before a place, so many, newest
/// first; `read` gives the row at a place, if it matches.
pub(super) fn newest_first<T>(
    connection: &Connection,
    list: List,
    newest: impl Fn(MandateId, u64, u32) -> Result<Vec<u64>, LedgerError>,
    read: impl Fn(u64) -> Result<Option<T>, LedgerError>,
) -> Result<Page<T>, LedgerError> {
    let cursor = list.cursor.unwrap_or(Cursor::START);
    let group = group(connection, list, cursor)?;
    let older = group.last().filter(|_| group.len() == MANDATES as usize && list.mandate.is_none());
    let older = older.map(|(place, _)| Cursor { mandates: *place, ..Cursor::START });

    let mut next = BinaryHeap::new();
    for (_, mandate) in group {
        next.extend(newest(mandate, cursor.before, 1)?.pop().map(|seq| (seq, mandate, VecDeque::new())));
    }
    let (mut rows, mut examined) = (Vec::new(), 0_u32);
    while let Some((seq, mandate, mut ahead)) = next.pop() {
        if rows.len() == list.limit as usize || examined == EXAMINED {
            return Ok(Page { rows, next: Some(Cursor { before: seq.saturating_add(1), ..cursor }) });
        }
        examined = examined.saturating_add(1);
        rows.extend(read(seq)?);
        if ahead.is_empty() {
            ahead = newest(mandate, seq, AHEAD)?.into();
        }
        next.extend(ahead.pop_front().map(|seq| (seq, mandate, ahead)));
    }
    Ok(Page { rows, next: older })
}

/// The mandates of the reader that are merged, newest first, with their places.
fn group(connection: &Connection, list: List, cursor: Cursor) -> Result<Vec<(u64, MandateId)>, LedgerError> {
    match list.mandate {
        Some(id) => {
            let query = "SELECT seq, id FROM mandate WHERE id = ?1 AND (agent = ?2 OR operator = ?2)";
            connection.rows(query, (Sql(id), Sql(list.reader)))
        }
        None => mandates::ids(connection, list.reader, cursor.mandates, MANDATES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for cursor in [Cursor::START, Cursor { before: 7, ..Cursor::START }, Cursor { before: 7, mandates: 3 }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!(Cursor { before: 7, ..Cursor::START }.to_string(), "7");
        for wrong in ["", "x", "-1", "1.", ".1", "1.2.3", "9223372036854775808"] {
            assert_eq!(wrong.parse::<Cursor>(), Err(CursorError), "{wrong}");
        }
    }
}
