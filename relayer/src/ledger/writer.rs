//! The one writer: a thread of its own, group commit.

use std::{
    collections::VecDeque,
    fmt, mem,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use alloy_primitives::Address;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use stipend_core::MandateId;
use tokio::sync::{oneshot, watch};

use super::{
    LedgerError, audit,
    books::{Books, OpenMandate},
    checkpointer::Checkpointer,
};
use crate::failpoint::{self, Point};

/// How many commands of a priority may wait; beyond it callers get an error and may retry.
pub(super) const QUEUE: usize = 4_096;
/// How many commands share one commit at most.
const GROUP: usize = 256;
/// After so long no further command joins a group: an urgent one waits for one short group at most.
pub(super) const GROUP_TIME: Duration = Duration::from_millis(8);

/// How often readers are told of changes, while there are ever more of them.
const TOLD_EVERY: Duration = Duration::from_millis(25);

/// For how long one command of a long step may run before it leaves the rest to the next one: admissions and an issuer's
/// questions come in between.
pub const STEP_TIME: Duration = Duration::from_millis(4);

/// Which commands go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits who does not wait for long: an issuer with a charge.
    Urgent,
    /// What gets the work done that was accepted: blocks, and transactions. Behind thousands of new payments it would
    /// starve.
    Step,
    /// Everything else.
    Normal,
}

/// Runs within the group's transaction, and returns what answers the caller once it is known
/// whether the group was committed. An error is the whole group's.
type Command = Box<dyn FnOnce(&Transaction<'_>, &mut Books) -> Result<Answer, LedgerError> + Send>;
type Answer = Box<dyn FnOnce(bool) + Send>;

/// What waits, in the order in which it came.
#[derive(Default)]
struct Queue {
    urgent: VecDeque<Command>,
    step: VecDeque<Command>,
    normal: VecDeque<Command>,
    /// Readers who wait until the tables have all that was answered.
    readers: Vec<oneshot::Sender<()>>,
    /// No writer takes from it any more, or no caller adds to it.
    closed: bool,
}

impl Queue {
    const fn of(&mut self, priority: Priority) -> &mut VecDeque<Command> {
        match priority {
            Priority::Urgent => &mut self.urgent,
            Priority::Step => &mut self.step,
            Priority::Normal => &mut self.normal,
        }
    }

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.step.is_empty() && self.normal.is_empty() && self.readers.is_empty()
    }

    /// The next command of a group that has run for so long. One of each priority is in every group, so that a flood
    /// of one never keeps the others waiting; after that the first half of the time is for steps, the rest for others.
    fn next(&mut self, due: &mut Vec<Priority>, elapsed: Duration) -> Option<Command> {
        use Priority::{Normal, Step, Urgent};
        while let Some(priority) = due.pop() {
            if let Some(command) = self.of(priority).pop_front() {
                return Some(command);
            }
        }
        let order = match elapsed {
            _ if elapsed < GROUP_TIME / 2 => [Urgent, Step, Normal].as_slice(),
            _ if elapsed < GROUP_TIME => &[Urgent, Normal, Step],
            _ => &[],
        };
        order.iter().find_map(|priority| self.of(*priority).pop_front())
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Something that was answered is in the trail alone.
    behind: AtomicBool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.queue().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for a command, until that time at most; `false` when there is none and none will come.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut queue = self.queue();
        while queue.is_empty() {
            if queue.closed {
                return false;
            }
            queue = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return true,
                Some(left) => self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }
}

/// Closes the queue when the last caller is gone, and waits until what was put off is written.
struct Callers {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.close();
        // The last one may have been part of a command.
        if let Some(writer) = self.writer.take().filter(|writer| writer.thread().id() != thread::current().id()) {
            // If it panicked, that was told when it happened.
            writer.join().ok();
        }
    }
}

/// Closes the queue when the thread ends, whatever ends it: who waits in it is told that nobody will answer.
struct Thread(Arc<Shared>);

impl Drop for Thread {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        *queue = Queue { closed: true, ..Queue::default() };
    }
}

/// Hands commands to the writer's thread. Cheap to clone; the thread ends when the last one is gone.
#[derive(Clone)]
pub struct Writer {
    callers: Arc<Callers>,
    changes: watch::Receiver<u64>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(mut connection: Connection, path: &Path) -> Result<Self, LedgerError> {
        let checkpointer = Checkpointer::start(&mut connection, path)?;
        let shared = Arc::new(Shared::default());
        let thread = Thread(shared.clone());
        let (changed, changes) = watch::channel(audit::last(&connection)?);
        let writer = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(&connection, &checkpointer, &thread.0, &changed))
            .map_err(|source| LedgerError::File { path: "the writer's thread".into(), source })?;
        Ok(Self { callers: Arc::new(Callers { shared, writer: Some(writer) }), changes })
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

    /// Has the tables show all that was answered until now. However many wait for that, it is done once for all of them.
    ///
    /// # Errors
    /// [`LedgerError::Unknown`] if the writer has stopped before it could.
    pub(super) async fn catch_up(&self) -> Result<(), LedgerError> {
        let shared = &self.callers.shared;
        if !shared.behind.load(Ordering::Acquire) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = shared.queue();
            if queue.closed {
                return Err(LedgerError::Unknown);
            }
            queue.readers.push(reply);
        }
        shared.arrived.notify_one();
        answer.await.map_err(|_| LedgerError::Unknown)
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
        self.write_as(Priority::Normal, work).await
    }

    /// The same, with another priority.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub async fn write_as<T, F>(&self, priority: Priority, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        self.command(priority, move |transaction, books| {
            books.close(transaction)?;
            Ok(savepoint(transaction, work))
        })
        .await
    }

    /// The same for payments of one mandate, if it is this agent's: they share its books, and may be in the trail alone for
    /// a moment.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub async fn admit<T, F>(&self, mandate: MandateId, agent: Address, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, Option<&mut OpenMandate>) -> Result<T, LedgerError> + Send + 'static,
    {
        self.command(Priority::Normal, move |transaction, books| {
            Ok(books.change(transaction, mandate, agent, |open| savepoint(transaction, |ledger| work(ledger, open))))
        })
        .await
    }

    async fn command<T, F>(&self, priority: Priority, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &mut Books) -> Result<Result<T, LedgerError>, LedgerError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |transaction, books| {
            let result = work(transaction, books)?;
            Ok(Box::new(move |committed| {
                // The caller may be gone; the commit stands all the same.
                let _ = reply.send(if committed { result } else { Err(LedgerError::Unknown) });
            }))
        });
        self.push(priority, command)?;
        answer.await.map_err(|_| LedgerError::Unknown)?
    }

    fn push(&self, priority: Priority, command: Command) -> Result<(), LedgerError> {
        let shared = &self.callers.shared;
        let mut queue = shared.queue();
        if queue.closed {
            return Err(LedgerError::Unknown);
        }
        let slept = queue.is_empty();
        let waiting = queue.of(priority);
        if waiting.len() >= QUEUE {
            return Err(LedgerError::Full);
        }
        waiting.push_back(command);
        drop(queue);
        if slept {
            shared.arrived.notify_one();
        }
        Ok(())
    }
}

fn savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    transaction.prepare_cached("SAVEPOINT command")?.execute([])?;
    let result = work(transaction);
    if result.is_err() {
        transaction.prepare_cached("ROLLBACK TO command")?.execute([])?;
    }
    transaction.prepare_cached("RELEASE command")?.execute([])?;
    result
}

fn run(connection: &Connection, checkpointer: &Checkpointer, shared: &Shared, changed: &watch::Sender<u64>) {
    let mut books = Books::default();
    let mut told = Instant::now();
    loop {
        let ends = !shared.wait(books.due());
        if ends && books.is_applied() {
            return;
        }
        let mut answers = Vec::with_capacity(GROUP);
        let readers = mem::take(&mut shared.queue().readers);
        let committed = commit(connection, shared, &mut books, &mut answers, ends || !readers.is_empty());
        shared.behind.store(!books.is_applied(), Ordering::Release);
        for answer in answers {
            answer(committed.is_ok());
        }
        match committed {
            Ok(applied) => {
                for reader in readers {
                    // It may be gone.
                    let _ = reader.send(());
                }
                // Under load, some of the time, or they would do nothing but read.
                if books.is_applied() || told.elapsed() >= TOLD_EVERY {
                    told = Instant::now();
                    changed.send_if_modified(|seq| mem::replace(seq, applied) != applied);
                }
                checkpointer.finish(connection);
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed: the ledger stops, and must be opened again");
                return;
            }
        }
    }
}

/// Runs a group of what waits, and commits it. Returns up to which place readers find everything: with `closes`, all of it.
fn commit(
    connection: &Connection,
    shared: &Shared,
    books: &mut Books,
    answers: &mut Vec<Answer>,
    closes: bool,
) -> Result<u64, LedgerError> {
    let transaction = begin(connection)?;
    let start = Instant::now();
    let mut due = vec![Priority::Normal, Priority::Step, Priority::Urgent];
    while answers.len() < GROUP {
        let Some(command) = shared.queue().next(&mut due, start.elapsed()) else { break };
        answers.push(command(&transaction, books)?);
        // A full disk can take back the whole transaction instead of a command: then what came before
        // is gone, and nothing may come after.
        if transaction.is_autocommit() {
            return Err(LedgerError::Unknown);
        }
    }
    if closes {
        books.close(&transaction)?;
    }
    let last = audit::seal(&transaction)?;
    let applied = books.apply_due(&transaction, last)?;
    failpoint::pass(Point::WriterBeforeCommit);
    transaction.commit()?;
    failpoint::pass(Point::WriterCommitted);
    Ok(applied)
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
