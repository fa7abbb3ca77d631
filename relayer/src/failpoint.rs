//! Places between two effects at which a test can have the process die.
//!
//! `STIPEND_FAILPOINT=<name>` ends the process when it comes there, `<name>:3` when it comes there for
//! the third time: at once, with no destructor run and nothing flushed, as a power cut would.
//! `<name>:3:panic` panics there instead, as a defect would. A build without debug
//! assertions knows nothing of it.

/// The variable that arms one of them.
pub const VARIABLE: &str = "STIPEND_FAILPOINT";

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place between two effects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them. Those whose name begins with `start.` are passed once per process.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// What the variable calls it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// The ledger is open, its deployment is stored.
    StartOpened = "start.opened",
    /// The chain has been caught up with.
    StartCaughtUp = "start.caught_up",
    /// The submitter's row is there; nothing serves yet.
    StartSender = "start.sender",
    /// The writer has run a group, and is about to commit it.
    WriterBeforeCommit = "writer.before_commit",
    /// The writer has committed a group, and has answered nobody.
    WriterCommitted = "writer.committed",
    /// A payment is stored, or denied; its agent has no answer.
    PaymentCommitted = "payment.committed",
    /// A request for a mandate is stored; its agent has no answer.
    RequestCommitted = "request.committed",
    /// An operator's approval is stored; the operator has no answer.
    ApprovalCommitted = "approval.committed",
    /// Something to send has passed its simulation.
    SendSimulated = "send.simulated",
    /// It is signed, and stored nowhere.
    SendSigned = "send.signed",
    /// A part of a batch is stored, or the last of it.
    SettleStoring = "settle.storing",
    /// A batch is stored, and not sent.
    SettleStored = "settle.stored",
    /// A batch is sent, and nobody has looked at the answer; so for the others.
    SettleSent = "settle.sent",
    /// An opening by authorization is stored, and not sent.
    OpenStored = "open.stored",
    OpenSent = "open.sent",
    /// A sweep, or a revocation, is stored, and not sent.
    SweepStored = "sweep.stored",
    SweepSent = "sweep.sent",
    /// A hold is stored, and not sent.
    HoldStored = "hold.stored",
    HoldSent = "hold.sent",
    /// A capture is stored, and not sent.
    CaptureStored = "capture.stored",
    CaptureSent = "capture.sent",
    /// A release is stored, and not sent.
    ReleaseStored = "release.stored",
    ReleaseSent = "release.sent",
    /// An attempt with higher fees is signed, and stored nowhere.
    ReplaceSigned = "replace.signed",
    /// An attempt with higher fees is stored, and not sent.
    ReplaceStored = "replace.stored",
    /// Why a payment waits is stored.
    WaitNoted = "wait.noted",
    /// A block and its logs were read, and nothing of them is booked.
    FollowRead = "follow.read",
    /// A block is unmined within the ledger's transaction.
    FollowUnmining = "follow.unmining",
    /// A block is mined within the ledger's transaction.
    FollowMining = "follow.mining",
    /// A block is final within the ledger's transaction.
    FollowFinalizing = "follow.finalizing",
    /// Blocks were unmined and committed; not published.
    UnmineCommitted = "unmine.committed",
    /// Blocks were mined and committed; not published.
    MineCommitted = "mine.committed",
    /// Blocks became final and were committed; not published.
    FinalizeCommitted = "finalize.committed",
    /// A card is accepted; its agent has no answer.
    CardCommitted = "card.committed",
    /// The issuer is about to be asked for a card.
    CardCreating = "card.creating",
    /// The issuer has made a card, and it is not stored.
    CardCreated = "card.created",
    /// The issuer's card is stored.
    CardIssued = "card.issued",
    /// The decision about a charge is stored; the issuer has no answer.
    ChargeDecided = "charge.decided",
    /// The issuer's event is stored; not acknowledged.
    WebhookTaken = "webhook.taken",
    /// A card is about to be paused or resumed at the issuer.
    CardPausing = "card.pausing",
    /// The issuer has paused a card or taken it up again, and it is not stored.
    CardPaused = "card.paused",
    /// A card is about to be closed at the issuer.
    CardClosing = "card.closing",
    /// The issuer has closed a card; what of it to capture is not stored.
    CardClosed = "card.closed",
    /// What to capture of a card's hold, and so what to release, is stored.
    CardConcluded = "card.concluded",
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        env, process,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::{Point, VARIABLE};

    /// The point, how many passings are left, and what happens then.
    static ARMED: OnceLock<(Point, AtomicU32, End)> = OnceLock::new();

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum End {
        Process,
        Task,
    }

    /// Reads the variable.
    ///
    /// # Errors
    /// What is wrong with it: a name that there is not, with those that there are.
    pub fn arm() -> Result<(), String> {
        let Ok(text) = env::var(VARIABLE) else { return Ok(()) };
        let (point, passing, end) = parse(&text)?;
        ARMED.get_or_init(|| (point, AtomicU32::new(passing), end));
        Ok(())
    }

    pub(super) fn parse(text: &str) -> Result<(Point, u32, End), String> {
        let (text, end) = match text.strip_suffix(":panic") {
            Some(text) => (text, End::Task),
            None => (text, End::Process),
        };
        let (name, passing) = text.split_once(':').unwrap_or((text, "1"));
        let known = || Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(" ");
        let point = Point::ALL.iter().copied().find(|point| point.name() == name);
        let point = point.ok_or_else(|| format!("{VARIABLE}: there is no `{name}`; there are: {}", known()))?;
        match passing.parse() {
            Ok(passing) if passing > 0 => Ok((point, passing, end)),
            _ => Err(format!("{VARIABLE}: `{passing}` is no passing; the first one is 1")),
        }
    }

    /// The process has come to this point.
    #[expect(clippy::panic, reason = "it is what was asked for, in a build for tests")]
    pub fn pass(point: Point) {
        if let Some((armed, left, end)) = ARMED.get()
            && *armed == point
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            match end {
                End::Process => process::abort(),
                End::Task => panic!("at the failpoint {}", point.name()),
            }
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{arm, pass};

/// Nothing is armed in this build.
///
/// # Errors
/// None.
#[cfg(not(debug_assertions))]
pub const fn arm() -> Result<(), String> {
    Ok(())
}

/// Nothing happens in this build.
#[cfg(not(debug_assertions))]
pub const fn pass(_point: Point) {}

/// The same, if it was on this way.
pub fn pass_if(condition: bool, point: Point) {
    if condition {
        pass(point);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::{
        Point,
        armed::{End, parse},
    };

    #[test]
    fn a_name_says_where_and_a_number_which_time() {
        assert_eq!(parse("settle.stored"), Ok((Point::SettleStored, 1, End::Process)));
        assert_eq!(parse("settle.stored:3"), Ok((Point::SettleStored, 3, End::Process)));
        assert_eq!(parse("settle.stored:3:panic"), Ok((Point::SettleStored, 3, End::Task)));
        for wrong in ["", "settle", "settle.stored:0", "settle.stored:", "settle.stored:x", "Settle.stored"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
