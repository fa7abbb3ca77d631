//! What survives a restart: one SQLite file. Whoever changes something hands over a closure, which
//! runs in one transaction: it happens whole and on its own, or not at all.

pub(crate) mod cards;
pub(crate) mod outbox;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, TransactionBehavior, types::Value as Sql};
use serde::{Serialize, de::DeserializeOwned};

/// The version of schema.sql that this program reads and writes.
const VERSION: i64 = 1;

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("the issuer's database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// A newer or a foreign file.
    #[error("the issuer's database has schema version {0}, this program knows {VERSION}: give it another file")]
    Version(i64),
    /// A row that this program did not write.
    #[error("the issuer's database is inconsistent: {0}")]
    Inconsistent(String),
    /// The system has none to give.
    #[error("no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The work was cut off; whether it took effect can't be said.
    #[error("the work on the issuer's database was cut off")]
    CutOff,
}

impl StoreError {
    pub(crate) fn inconsistent(what: impl std::fmt::Display) -> Self {
        Self::Inconsistent(what.to_string())
    }
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Mutex<Connection>>);

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;",
        )?;
        migrate(&mut connection)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `work` in one transaction, after all work that came before it and off the async threads.
    ///
    /// # Errors
    /// Those of `work`, and nothing was changed; [`StoreError`] turned into its error.
    pub(crate) async fn run<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
            let result = work(&transaction)?;
            transaction.commit().map_err(StoreError::from)?;
            Ok(result)
        });
        task.await.map_err(|_| StoreError::CutOff)?
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == VERSION {
        return Ok(());
    }
    let empty: bool = connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if found != 0 || !empty {
        return Err(StoreError::Version(found));
    }
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("store/schema.sql"))?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// A page of a list.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) size: u32,
    pub(crate) cursor: Option<Cursor>,
}

/// Where a page begins or ends: at the item with this token, which is not on it.
#[derive(Clone, Debug)]
pub(crate) enum Cursor {
    After(String),
    Before(String),
}

/// The rows of `table` that fulfill all `conditions`, newest first, as their `body`; and whether
/// there are more in the direction of the page. `None` if the cursor's item does not exist.
fn page<T: DeserializeOwned>(
    connection: &Connection,
    table: &str,
    body: &str,
    conditions: Vec<(&str, Sql)>,
    page: &Page,
) -> Result<Option<(Vec<T>, bool)>, StoreError> {
    let mut clauses = vec!["true".to_owned()];
    let mut values = Vec::new();
    for (condition, value) in conditions {
        clauses.push(condition.to_owned());
        values.push(value);
    }
    let order = match &page.cursor {
        None => "DESC",
        Some(Cursor::After(token) | Cursor::Before(token)) => {
            let find = format!("SELECT seq FROM {table} WHERE token = ?");
            let found = connection.prepare_cached(&find)?.query_and_then([token], |row| row.get::<_, i64>(0))?.next();
            let Some(seq) = found.transpose()? else { return Ok(None) };
            values.push(seq.into());
            let after = matches!(page.cursor, Some(Cursor::After(_)));
            clauses.push(if after { "seq < ?" } else { "seq > ?" }.to_owned());
            if after { "DESC" } else { "ASC" }
        }
    };
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    values.push((i64::from(page.size) + 1).into());
    let query = format!("SELECT {body} FROM {table} WHERE {} ORDER BY seq {order} LIMIT ?", clauses.join(" AND "));
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_and_then(rusqlite::params_from_iter(values), |row| json(&row.get::<_, String>(0)?))?;
    let mut items = rows.collect::<Result<Vec<T>, StoreError>>()?;
    let more = items.len() > size;
    items.truncate(size);
    if order == "ASC" {
        items.reverse();
    }
    Ok(Some((items, more)))
}

/// Reads a JSON column.
fn json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(StoreError::inconsistent)
}

/// Writes a JSON column.
fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::inconsistent)
}

/// The word that an enum has on the wire.
fn word<T: Serialize>(value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        other => Err(StoreError::inconsistent(format_args!("{other:?} is no word"))),
    }
}
