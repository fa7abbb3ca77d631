//! How values and rows go into SQLite and come out of it, in one place.
//!
//! [`row!`](row) declares a row: each field beside the column that it is read from, so that no column
//! is ever read by its number.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes};
use rusqlite::{
    Connection, Params, Row, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Value, ValueRef},
};
use stipend_core::{
    Amount, CardId, Code, Intent, MandateId, PaymentId, RequestId, Terms,
    api::{Metadata, NewMandateRequest, PaymentState},
    card::CardState,
};
use uuid::Uuid;

use super::LedgerError;

/// Something of the hold is not settled, as the index `card_unsettled` says it.
pub(super) const UNSETTLED: &str = "amount > captured + released AND state <> 'failed'";

/// The hold is not in the chain, and nothing final says that it never can be. Such a card is [`UNSETTLED`] too; that is
/// said so that its index is used.
pub(super) const AWAITING_HOLD: &str = "amount > captured + released AND state <> 'failed'
    AND state <> 'closed' AND held_hash IS NULL AND released = 0";

/// What a mandate holds can be swept: a final block has reached its capture end, so that nothing is
/// captured or released.
pub(super) const HOLDS_HAVE_ENDED: &str = "held > 0 AND json_extract(terms, '$.capture_end') <= (SELECT time FROM block
    WHERE final ORDER BY number DESC LIMIT 1)";

/// A value that is stored in one column.
pub(super) trait Stored: Sized {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self>;
    fn encode(&self) -> rusqlite::Result<Value>;
}

/// A [`Stored`] value as a parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sql<T>(pub(super) T);

impl<T: Stored> ToSql for Sql<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.encode().map(ToSqlOutput::Owned)
    }
}

impl<T: Stored> FromSql for Sql<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        T::decode(value).map(Self)
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> FromSqlError {
    FromSqlError::Other(Box::new(error))
}

fn unfit(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// Types that are stored as SQLite's own.
macro_rules! stored_as_is {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
                FromSql::column_result(value)
            }
            fn encode(&self) -> rusqlite::Result<Value> {
                Ok(Value::from(self.clone()))
            }
        }
    )*};
}
stored_as_is!(bool, i64, u32, String, Vec<u8>);

impl Stored for u64 {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        FromSql::column_result(value)
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        i64::try_from(*self).map(Value::Integer).map_err(unfit)
    }
}

/// Types that are stored as their bytes.
macro_rules! stored_as_bytes {
    ($($type:ty: $bytes:ty, $to:expr, $from:expr;)*) => {$(
        impl Stored for $type {
            fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <$bytes>::column_result(value).map($from)
            }
            fn encode(&self) -> rusqlite::Result<Value> {
                Ok(Value::Blob(($to)(self).to_vec()))
            }
        }
    )*};
}
stored_as_bytes! {
    B256: [u8; 32], |hash: &Self| hash.0, Self::from;
    Address: [u8; 20], |address: &Self| address.0.0, Self::from;
    Bytes: Vec<u8>, |bytes: &Self| bytes.clone(), Self::from;
    MandateId: [u8; 32], |id: &Self| id.0.0, |id| Self(id.into());
    Uuid: [u8; 16], |id: &Self| id.into_bytes(), Self::from_bytes;
    PaymentId: [u8; 16], |id: &Self| id.0.into_bytes(), |id| Self(Uuid::from_bytes(id));
    CardId: [u8; 16], |id: &Self| id.0.into_bytes(), |id| Self(Uuid::from_bytes(id));
    RequestId: [u8; 16], |id: &Self| id.0.into_bytes(), |id| Self(Uuid::from_bytes(id));
}

/// Wei, as sixteen bytes: decimal digits could look like a card's number.
impl Stored for u128 {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(Self::from_be_bytes)
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        Ok(Value::Blob(self.to_be_bytes().to_vec()))
    }
}

impl Stored for Amount {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_units(FromSql::column_result(value)?).map_err(invalid)
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        self.units().encode()
    }
}

/// Enums that are stored by their names.
macro_rules! stored_by_name {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let name = value.as_str()?;
                let found = Self::ALL.iter().copied().find(|value| value.name() == name);
                found.ok_or_else(|| invalid(UnknownName(name.to_owned())))
            }
            fn encode(&self) -> rusqlite::Result<Value> {
                Ok(Value::Text(self.name().to_owned()))
            }
        }
    )*};
}
stored_by_name!(Code, PaymentState, CardState);

#[derive(Debug, thiserror::Error)]
#[error("the unknown name {0:?}")]
struct UnknownName(String);

/// Documents, which are stored as JSON text.
macro_rules! stored_as_json {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
                serde_json::from_str(value.as_str()?).map_err(invalid)
            }
            fn encode(&self) -> rusqlite::Result<Value> {
                serde_json::to_string(self).map(Value::Text).map_err(unfit)
            }
        }
    )*};
}
stored_as_json!(Terms, NewMandateRequest, Metadata, serde_json::Value);

impl Stored for Vec<B256> {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(value.as_blob()?.as_chunks().0.iter().map(|hash| B256::new(*hash)).collect())
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        Ok(Value::Blob(self.concat()))
    }
}

impl Stored for Intent {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map_err(invalid)
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        Ok(Value::Text(self.canonical()))
    }
}

impl Stored for Arc<Intent> {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Intent::decode(value).map(Self::new)
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        self.as_ref().encode()
    }
}

impl<T: Stored> Stored for Option<T> {
    fn decode(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Null => Ok(None),
            value => T::decode(value).map(Some),
        }
    }
    fn encode(&self) -> rusqlite::Result<Value> {
        self.as_ref().map_or(Ok(Value::Null), Stored::encode)
    }
}

/// The columns of a row, read one after the other in the order in which the query names them.
pub(super) struct Columns<'row> {
    row: &'row Row<'row>,
    next: usize,
}

impl<'row> Columns<'row> {
    pub(super) const fn of(row: &'row Row<'row>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: FromColumns>(&mut self) -> Result<T, LedgerError> {
        T::from_columns(self)
    }
}

/// What is read from one column or several.
pub(super) trait FromColumns: Sized {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError>;
}

impl<T: Stored> FromColumns for T {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        let Sql(value) = columns.row.get(columns.next)?;
        columns.next = columns.next.saturating_add(1);
        Ok(value)
    }
}

macro_rules! tuples {
    ($(($($name:ident),+))*) => {$(
        impl<$($name: FromColumns),+> FromColumns for ($($name,)+) {
            fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
                Ok(($(columns.take::<$name>()?,)+))
            }
        }
    )*};
}
tuples! { (A, B) (A, B, C) (A, B, C, D) }

/// Declares a struct, its table, and the column or columns that each field is read from.
macro_rules! row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident in $table:literal {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty = $column:expr,)+
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)+
        }

        impl $name {
            const SELECT: &str =
                concat!("SELECT ", $crate::ledger::sql::columns!($($column),+), " FROM ", $table);

            /// The rows that match the rest of the query, from `WHERE` on.
            #[cfg_attr(test, track_caller)]
            fn select(
                connection: &rusqlite::Connection,
                rest: &str,
                parameters: impl rusqlite::Params,
            ) -> Result<Vec<Self>, $crate::ledger::LedgerError> {
                $crate::ledger::sql::Statements::rows(connection, &format!("{} {rest}", Self::SELECT), parameters)
            }
        }

        impl $crate::ledger::sql::FromColumns for $name {
            fn from_columns(
                columns: &mut $crate::ledger::sql::Columns<'_>,
            ) -> Result<Self, $crate::ledger::LedgerError> {
                Ok(Self { $($field: columns.take()?),+ })
            }
        }
    };
}
macro_rules! columns {
    ($first:expr $(, $rest:expr)*) => { concat!($first $(, ", ", $rest)*) };
}
/// `insert!(connection, "INTO table", { "column": value, … })`: each value beside the column that it
/// goes into. Returns how many rows were inserted; the fourth argument ends the statement.
macro_rules! insert {
    ($connection:expr, $table:literal, { $first:literal: $value:expr $(, $column:literal: $rest:expr)* $(,)? }) => {
        $crate::ledger::sql::insert!($connection, $table, { $first: $value $(, $column: $rest)* }, "")
    };
    ($connection:expr, $table:literal, { $first:literal: $value:expr $(, $column:literal: $rest:expr)* $(,)? }, $end:literal) => {
        $crate::ledger::sql::Statements::change(
            $connection,
            concat!("INSERT INTO ", $table, " (", $first $(, ", ", $column)*, ") VALUES (?" $(, $crate::ledger::sql::parameter!($column))*, ") ", $end),
            rusqlite::params![$value $(, $rest)*],
        )
    };
}
macro_rules! parameter {
    ($column:literal) => {
        ", ?"
    };
}
pub(super) use {columns, insert, parameter, row};

/// Statements on a connection; each is prepared once.
pub(super) trait Statements {
    #[cfg_attr(test, track_caller)]
    fn rows<T: FromColumns>(&self, statement: &str, parameters: impl Params) -> Result<Vec<T>, LedgerError>;

    /// The first row, if there is one.
    #[cfg_attr(test, track_caller)]
    fn row<T: FromColumns>(&self, statement: &str, parameters: impl Params) -> Result<Option<T>, LedgerError>;

    /// The only row of an aggregate.
    #[cfg_attr(test, track_caller)]
    fn value<T: FromColumns>(&self, statement: &str, parameters: impl Params) -> Result<T, LedgerError> {
        self.row(statement, parameters)?.ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
    }

    /// Changes rows; returns how many.
    #[cfg_attr(test, track_caller)]
    fn change(&self, statement: &str, parameters: impl Params) -> Result<usize, LedgerError>;

    /// Where the last inserted row is.
    fn inserted(&self) -> Result<u64, LedgerError>;
}

impl Statements for Connection {
    fn rows<T: FromColumns>(&self, statement: &str, parameters: impl Params) -> Result<Vec<T>, LedgerError> {
        let mut prepared = self.prepare_cached(statement)?;
        let rows = prepared.query_and_then(parameters, |row| Columns::of(row).take())?.collect();
        #[cfg(test)]
        cost::record(&prepared, statement);
        rows
    }

    fn row<T: FromColumns>(&self, statement: &str, parameters: impl Params) -> Result<Option<T>, LedgerError> {
        let mut prepared = self.prepare_cached(statement)?;
        let row = prepared.query_and_then(parameters, |row| Columns::of(row).take())?.next().transpose();
        #[cfg(test)]
        cost::record(&prepared, statement);
        row
    }

    fn change(&self, statement: &str, parameters: impl Params) -> Result<usize, LedgerError> {
        let mut prepared = self.prepare_cached(statement)?;
        let changed = prepared.execute(parameters)?;
        #[cfg(test)]
        cost::record(&prepared, statement);
        Ok(changed)
    }

    fn inserted(&self) -> Result<u64, LedgerError> {
        u64::try_from(self.last_insert_rowid()).map_err(LedgerError::inconsistent)
    }
}

/// What statements cost, for the test that none costs more on a ledger with a longer history.
#[cfg(test)]
pub(super) mod cost {
    use std::{cell::RefCell, panic::Location};

    use rusqlite::{Statement, StatementStatus};

    thread_local! {
        static RUNS: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
    }

    /// One run of a statement.
    #[derive(Clone, Debug)]
    pub(in crate::ledger) struct Run {
        /// Where in the source it was called.
        pub(in crate::ledger) at: &'static Location<'static>,
        pub(in crate::ledger) statement: String,
        /// The instructions of SQLite's virtual machine that it took: at least one per row that was read.
        pub(in crate::ledger) steps: u64,
        /// How often SQLite compiled it anew because of the values that were bound.
        pub(in crate::ledger) recompiled: u64,
    }

    /// The statements that `work` runs on this thread.
    pub(in crate::ledger) fn of(work: impl FnOnce()) -> Vec<Run> {
        RUNS.set(Some(Vec::new()));
        work();
        RUNS.take().unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn record(prepared: &Statement<'_>, statement: &str) {
        let spent = |status| u64::try_from(prepared.reset_status(status)).unwrap();
        let (steps, recompiled) = (spent(StatementStatus::VmStep), spent(StatementStatus::RePrepare));
        let run = Run { at: Location::caller(), statement: statement.to_owned(), steps, recompiled };
        RUNS.with_borrow_mut(|runs| runs.as_mut().map(|runs| runs.push(run)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes back of a value that was stored.
    fn stored<T: Stored + Clone>(value: &T) -> Result<T, LedgerError> {
        let connection = Connection::open_in_memory().unwrap();
        connection.value("SELECT ?", [Sql(value.clone())])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_value_is_read_as_it_was_stored(bytes: [u8; 32], id: [u8; 16], wei: u128, number in 0..=i64::MAX as u64) {
            let (hash, uuid) = (B256::new(bytes), Uuid::from_bytes(id));
            prop_assert_eq!(stored(&MandateId(hash)).unwrap(), MandateId(hash));
            prop_assert_eq!(stored(&vec![hash, B256::ZERO]).unwrap(), [hash, B256::ZERO]);
            prop_assert_eq!(stored(&Address::from_word(hash)).unwrap(), Address::from_word(hash));
            prop_assert_eq!(stored(&PaymentId(uuid)).unwrap(), PaymentId(uuid));
            prop_assert_eq!(stored(&wei).unwrap(), wei);
            prop_assert_eq!(stored(&Some(number)).unwrap(), Some(number));
        }
    }

    #[test]
    fn names_are_read_back_and_unknown_ones_refused() {
        for code in Code::ALL {
            assert_eq!(stored(code).unwrap(), *code);
        }
        let connection = Connection::open_in_memory().unwrap();
        let unknown: Result<PaymentState, _> = connection.value("SELECT 'elsewhere'", []);
        assert!(unknown.unwrap_err().to_string().contains("elsewhere"));
    }

    #[test]
    fn a_number_that_sqlite_cannot_hold_is_refused() {
        assert!(stored(&u64::MAX).is_err());
        assert_eq!(stored(&None::<Amount>).unwrap(), None);
    }
}
