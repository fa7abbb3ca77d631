//! The durable ledger: one SQLite file, one writer, many readers.
//!
//! A caller that wants to change something hands a closure to the writer. The writer takes what is
//! queued, runs it in one transaction and answers only after the commit, so that a hundred callers
//! cost one fsync. A closure that fails takes back its own changes and nobody else's.
//!
//! The trail is the log: a payment that is accepted is in it before it is answered. Its row, the balances and the lists are
//! views of that, and follow a moment later, many at once ([`books`]).

pub mod audit;
pub mod balances;
pub mod blocks;
pub mod booking;
pub mod books;
pub mod cards;
pub mod charges;
pub mod check;
mod checkpointer;
pub mod feed;
pub mod gas;
pub mod journal;
pub mod mandates;
pub mod openings;
pub mod pages;
pub mod payments;
pub mod rebuild;
pub mod requests;
pub mod revocations;
mod sql;
#[cfg(test)]
mod tests;
pub mod transactions;
pub mod window;
mod writer;

use std::{
    fs::File,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use stipend_bindings::Domain;
use stipend_core::Deployment;
use tokio::sync::{Semaphore, watch};

use sql::{Columns, FromColumns, Sql, Statements, insert};
pub use writer::{Priority, STEP_TIME, Writer};

/// The version of schema.sql that this program reads and writes.
pub(crate) const VERSION: i64 = 9;

/// The first version whose trail is bytes.
const BYTES: i64 = 8;

/// From each version to the next, the first from version 1.
const UPGRADES: &[&str] = &[
    include_str!("ledger/upgrade_1.sql"),
    include_str!("ledger/upgrade_2.sql"),
    include_str!("ledger/upgrade_3.sql"),
    include_str!("ledger/upgrade_4.sql"),
    include_str!("ledger/upgrade_5.sql"),
    include_str!("ledger/upgrade_6.sql"),
    include_str!("ledger/upgrade_7.sql"),
    include_str!("ledger/upgrade_8.sql"),
];
const READERS: usize = 4;
/// Prepared statements that a connection keeps: all that there are. SQLite's default is 16, and preparing
/// one takes ten times as long as running it.
const STATEMENTS: usize = 256;
/// The size, in bytes, to which the -wal file is cut when it starts anew.
const JOURNAL_SIZE_LIMIT: i64 = 64 << 20;
/// How much of the file the writer keeps in memory, in KiB.
const CACHE: i64 = 32 << 10;
/// How long one try to write waits for another process to unlock the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite says so.
    #[error("the ledger's database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The file system says so.
    #[error("the ledger's file {path} failed: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else has it open.
    #[error("another process uses the ledger {0}: stop it first, or give this one a file of its own")]
    InUse(PathBuf),
    /// A newer or a foreign file.
    #[error(
        "the ledger {path} has schema version {found}, this program knows {VERSION}: use the program that wrote it, or start this one on it once if it is older"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: i64,
    },
    /// It belongs to another chain, escrow, token or guardian.
    #[error("the ledger belongs to {stored:?}, not to {given:?}: give this deployment its own ledger")]
    WrongDeployment {
        /// In the file.
        stored: Deployment,
        /// In the settings.
        given: Deployment,
    },
    /// A row that this program did not write, or a booking that cannot be.
    #[error("the ledger is inconsistent: {0}")]
    Inconsistent(String),
    /// Too many commands wait.
    #[error("the ledger's queue is full")]
    Full,
    /// Whether the command took effect can't be said: the commit failed, or the writer is gone.
    #[error("the ledger can't say whether this took effect")]
    Unknown,
}

impl LedgerError {
    pub(crate) fn inconsistent(what: impl std::fmt::Display) -> Self {
        Self::Inconsistent(what.to_string())
    }
}

/// The right to a ledger's file: one process at a time has it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, or says that another process has it.
    ///
    /// # Errors
    /// [`LedgerError::InUse`], and [`LedgerError::File`].
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        let file_error = |source| LedgerError::File { path: path.to_owned(), source };
        let file = File::create(path.with_added_extension("lock")).map_err(file_error)?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => LedgerError::InUse(path.to_owned()),
            std::fs::TryLockError::Error(source) => file_error(source),
        })?;
        Ok(Self { _file: file })
    }
}

/// Copies a ledger whose lock the caller has, with what is still in its write-ahead log, to a file
/// that does not exist. Refuses a version that it can't bring up to date.
pub fn copy(from: &Path, to: &Path) -> Result<(), LedgerError> {
    let connection = Connection::open(from)?;
    must_be_known(&connection, from, 1..=VERSION)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    drop(connection);
    let file_error = |source| LedgerError::File { path: to.to_owned(), source };
    let mut copy = private(to, true).map_err(file_error)?;
    let mut original = File::open(from).map_err(file_error)?;
    std::io::copy(&mut original, &mut copy).map_err(file_error)?;
    copy.sync_all().map_err(file_error)
}

/// The ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    path: Arc<PathBuf>,
    writer: Writer,
    readers: Arc<(Semaphore, Mutex<Vec<Connection>>)>,
    // Held as long as the ledger is open: a second process exits at once.
    _lock: Arc<Lock>,
}

impl Ledger {
    /// Opens or creates the ledger of `deployment` at `path` and starts its writer.
    ///
    /// # Errors
    /// [`LedgerError`]: in use, of another deployment, of an unknown version, or not writable.
    pub fn open(path: &Path, deployment: Deployment) -> Result<Self, LedgerError> {
        Self::open_locked(path, deployment, Lock::take(path)?)
    }

    /// Like [`open`](Self::open), for a caller that already holds the lock.
    ///
    /// # Errors
    /// [`LedgerError`]: of another deployment, of an unknown version, or not writable.
    pub fn open_locked(path: &Path, deployment: Deployment, lock: Lock) -> Result<Self, LedgerError> {
        let file_error = |source| LedgerError::File { path: path.to_owned(), source };
        // Signed payments are nobody else's business. The files that SQLite adds take the same mode.
        private(path, false).map_err(file_error)?;
        let mut connection = Connection::open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // An upgrade may make a table anew that others point at; what it leaves, `ledger check` proves.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;")?;
        // A -wal file that readers let grow shrinks again with the next checkpoint.
        connection.pragma_update(None, "journal_size_limit", JOURNAL_SIZE_LIMIT)?;
        // In KiB, if negative. What is written again and again is not read again.
        connection.pragma_update(None, "cache_size", -CACHE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        keep_statements(&connection)?;
        migrate(&mut connection, path)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        bind_to_deployment(&connection, deployment)?;
        let transaction = connection.transaction()?;
        books::recover(&transaction, Domain { chain_id: deployment.chain_id, escrow: deployment.escrow })?;
        transaction.commit()?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            writer: Writer::start(connection, path)?,
            readers: Arc::new((Semaphore::new(READERS), Mutex::new(Vec::new()))),
            _lock: Arc::new(lock),
        })
    }

    /// The writer, for commands.
    pub const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The last audit entry's `seq` that readers find everywhere; changes with every commit that adds some.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.writer.changes()
    }

    /// Moves everything from the write-ahead log into the file itself, so that after a stop the file
    /// alone is the whole ledger.
    ///
    /// # Errors
    /// [`LedgerError::Database`], and those of the writer; nothing is lost then, it only stays in the log.
    pub async fn checkpoint(&self) -> Result<(), LedgerError> {
        self.writer.catch_up().await?;
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = Connection::open(&*path)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(())
        });
        task.await.map_err(|_| LedgerError::Unknown)?
    }

    /// Reads from whole commits, off the async threads. All that was answered before is there.
    ///
    /// # Errors
    /// Those of `work`, [`LedgerError::Database`] if no connection can be had, and those of the writer, which may be asked
    /// to add what it has put off.
    pub async fn read<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    {
        self.writer.catch_up().await?;
        self.read_applied(work).await
    }

    /// The same, but payments that were accepted in the last moments may not be there. Whoever waits for [`changes`] sees
    /// all of what they tell.
    ///
    /// [`changes`]: Self::changes
    ///
    /// # Errors
    /// Those of `work`, and [`LedgerError::Database`] if no connection can be had.
    pub async fn read_applied<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    {
        let _permit = self.readers.0.acquire().await.map_err(|_| LedgerError::Unknown)?;
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = match this.idle().pop() {
                Some(connection) => connection,
                None => {
                    let connection = Connection::open_with_flags(&*this.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                    keep_statements(&connection)?;
                    connection
                }
            };
            // One snapshot for everything that `work` reads.
            let snapshot = connection.unchecked_transaction()?;
            let result = work(&snapshot);
            drop(snapshot);
            this.idle().push(connection);
            result
        });
        task.await.map_err(|_| LedgerError::Unknown)?
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.readers.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a connection keep all its statements as they were compiled once. Without the guarantee of stable plans, SQLite
/// compiles one anew whenever another value is bound to its `LIMIT` or to an end of a range.
fn keep_statements(connection: &Connection) -> Result<(), LedgerError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Creates the file for its owner alone; if it is there, it is opened, or must be new.
fn private(path: &Path, new: bool) -> std::io::Result<File> {
    let mut options = File::options();
    options.create(true).create_new(new).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // A copy that was restored may be open to others.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found == VERSION {
        return Ok(());
    }
    let empty: bool = connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    let statements: &[&str] = match found {
        0 if empty => &[include_str!("ledger/schema.sql")],
        1..VERSION => UPGRADES.get(usize::try_from(found - 1).unwrap_or_default()..).unwrap_or_default(),
        _ => return Err(LedgerError::Version { path: path.to_owned(), found }),
    };
    if found > 0 {
        tracing::info!(from = found, to = VERSION, "the ledger is brought up to date: a large one takes minutes");
    }
    let transaction = connection.transaction()?;
    for step in statements {
        transaction.execute_batch(step)?;
    }
    if (1..BYTES).contains(&found) {
        audit::import(&transaction)?;
        transaction
            .execute_batch("DROP TABLE audit; UPDATE applied SET seq = (SELECT coalesce(max(seq), 0) FROM trail)")?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// That the file's schema has one of these versions.
fn must_be_known(connection: &Connection, path: &Path, known: RangeInclusive<i64>) -> Result<(), LedgerError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if known.contains(&found) { Ok(()) } else { Err(LedgerError::Version { path: path.to_owned(), found }) }
}

impl FromColumns for Deployment {
    fn from_columns(columns: &mut Columns<'_>) -> Result<Self, LedgerError> {
        Ok(Self {
            chain_id: columns.take()?,
            escrow: columns.take()?,
            token: columns.take()?,
            guardian: columns.take()?,
        })
    }
}

/// Whose ledger it is, if that is said.
fn deployment(connection: &Connection) -> Result<Option<Deployment>, LedgerError> {
    let mut deployments: Vec<Deployment> =
        connection.rows("SELECT chain_id, escrow, token, guardian FROM deployment", [])?;
    let deployment = deployments.pop();
    if deployments.is_empty() {
        Ok(deployment)
    } else {
        Err(LedgerError::inconsistent("it belongs to more than one deployment"))
    }
}

fn bind_to_deployment(connection: &Connection, given: Deployment) -> Result<(), LedgerError> {
    match deployment(connection)? {
        Some(stored) if stored == given => Ok(()),
        Some(stored) => Err(LedgerError::WrongDeployment { stored, given }),
        None => {
            insert!(connection, "deployment", {
                "chain_id": given.chain_id,
                "escrow": Sql(given.escrow),
                "token": Sql(given.token),
                "guardian": Sql(given.guardian),
            })?;
            Ok(())
        }
    }
}
