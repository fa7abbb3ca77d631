//! The one writer: a thread of its own, group commit.

use std::{fmt, thread};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::LedgerError;
use crate::failpoint::{self, Point};

/// How many commands may wait; beyond it callers get an error and may retry.
const QUEUE: usize = 4_096;
/// How many commands share one commit at most.
const GROUP: usize = 256;

/// Runs within the group's transaction, and returns what answers the caller once it is known
/// whether the group was committed.
type Command = Box<dyn FnOnce(&Transaction<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(bool) + Send>;

/// Hands commands to the writer's thread. Cheap to clone; the thread ends when the last one is gone.
#[derive(Clone)]
pub struct Writer {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, LedgerError> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (changed, changes) = watch::channel(last_entry(&connection)?);
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(connection, queue, &changed))
            .map_err(|source| LedgerError::File { path: "the writer's thread".into(), source })?;
        Ok(Self { commands, changes })
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Resolves when the writer has stopped because a commit failed: nothing can be accepted any
    /// more, and what the failed commit held is unknown until the ledger is opened again.
    pub async fn stopped(&self) {
        let mut changes = self.changes.clone();
        while changes.changed().await.is_ok() {}
    }

    /// Runs `work` in the next group and returns its result after the commit.
    ///
    /// # Errors
    /// Those of `work`, after taking back what it had changed; [`LedgerError::Full`], and nothing
    /// was changed; [`LedgerError::Unknown`] if the commit failed.
    pub async fn write<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |transaction| {
            let result = savepoint(transaction, work);
            Box::new(move |committed| {
                // The caller may be gone; the commit stands all the same.
                let _ = reply.send(if committed { result } else { Err(LedgerError::Unknown) });
            })
        });
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Full,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Unknown,
        })?;
        answer.await.map_err(|_| LedgerError::Unknown)?
    }
}

fn savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    transaction.execute_batch("SAVEPOINT command")?;
    let result = work(transaction);
    transaction.execute_batch(if result.is_ok() {
        "RELEASE command"
    } else {
        "ROLLBACK TO command; RELEASE command"
    })?;
    result
}

fn run(connection: Connection, mut queue: mpsc::Receiver<Command>, changed: &watch::Sender<u64>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut answers = Vec::with_capacity(group.len());
        let committed = commit(&connection, &mut group, &mut answers);
        for answer in answers {
            answer(committed.is_ok());
        }
        match committed {
            Ok(last) => _ = changed.send_if_modified(|seq| std::mem::replace(seq, last) != last),
            Err(error) => {
                tracing::error!(%error, "a commit failed: the ledger stops, and must be opened again");
                return;
            }
        }
    }
}

fn commit(connection: &Connection, group: &mut Vec<Command>, answers: &mut Vec<Answer>) -> Result<u64, LedgerError> {
    let transaction = begin(connection)?;
    for command in group.drain(..) {
        answers.push(command(&transaction));
        // A full disk can take back the whole transaction instead of a command: then what came before
        // is gone, and nothing may come after.
        if transaction.is_autocommit() {
            return Err(LedgerError::Unknown);
        }
    }
    let last = last_entry(&transaction)?;
    failpoint::pass(Point::WriterBeforeCommit);
    transaction.commit()?;
    failpoint::pass(Point::WriterCommitted);
    Ok(last)
}

/// Begins a transaction that may write. While another process has the file locked nothing is done, so
/// nothing is unknown: it waits.
fn begin(connection: &Connection) -> Result<Transaction<'_>, LedgerError> {
    loop {
        match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                tracing::warn!("another process has locked the ledger's file: nothing is written until it lets go");
            }
            begun => return Ok(begun?),
        }
    }
}

fn last_entry(connection: &Connection) -> Result<u64, LedgerError> {
    Ok(connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM audit")?.query_row([], |row| row.get(0))?)
}
