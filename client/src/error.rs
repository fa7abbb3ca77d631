use reqwest::StatusCode;
use stipend_core::{
    Code,
    api::{Accepted, Card, NewCard, NewPayment, Payment, Problem},
};
use url::Url;

/// What carries the agent's own signature: the same bytes are never done twice. For
/// [`resend`](crate::Client::resend).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signed {
    /// A payment, and the key that it was sent with: without it, another payment with that key would be a second one.
    Payment {
        /// What was signed.
        payment: Box<NewPayment>,
        /// The caller's.
        idempotency_key: Option<String>,
    },
    /// The same of a card.
    Card {
        /// What was signed.
        card: Box<NewCard>,
        /// The caller's.
        idempotency_key: Option<String>,
    },
}

/// What came of sending it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resent {
    /// Of [`Signed::Payment`].
    Payment(Accepted<Payment>),
    /// Of [`Signed::Card`].
    Card(Accepted<Card>),
}

/// Why a call failed. The kinds differ in what is known about its effect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The relayer refused: nothing was done, unless the code says that this is not known.
    #[error("{}: {}", .0.code, .0.detail)]
    Problem(Box<Problem>),

    /// No answer came that says whether it was done, after several attempts.
    #[error(
        "{url} has not said whether it was done: the outcome is unknown; send the same again, it is never done twice"
    )]
    Unknown {
        /// What was called.
        url: Url,
        /// What was sent, if it carries a signature of its own: to be sent again as it is.
        signed: Option<Signed>,
        /// What came instead of such an answer.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },

    /// Nobody listens there: nothing was done.
    #[error("no relayer answers at {url}: check the address, or start one (`stipend dev`, `stipend serve`)")]
    Unreachable {
        /// What was called.
        url: Url,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },

    /// Something answers, but not as a relayer of this version does.
    #[error("{url} answered {status} with what no relayer says ({reason}): check the address and the versions")]
    NotARelayer {
        /// What was called.
        url: Url,
        /// The HTTP status.
        status: StatusCode,
        /// What is odd about it.
        reason: String,
    },

    /// The request can't be built.
    #[error("the request can't be built: {0}")]
    Setup(String),

    /// The signature can't be made.
    #[error("the signature can't be made: {0}")]
    Signing(String),
}

impl Error {
    /// The problem, if the relayer answered with one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        if let Self::Problem(problem) = self { Some(problem) } else { None }
    }

    /// The code of the problem.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.problem().map(|problem| problem.code)
    }

    /// Whether the same may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(
                problem.code,
                Code::Unavailable | Code::Overloaded | Code::CannotSend | Code::RateLimited | Code::Timeout
                // A relayer that has just started takes no signature older than itself. Every attempt signs anew.
                | Code::Unauthenticated
            ),
            Self::NotARelayer { .. } | Self::Setup(_) | Self::Signing(_) => false,
        }
    }

    /// Whether the call may have taken effect although it failed.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Problem(problem) => matches!(problem.code, Code::Unavailable | Code::Timeout | Code::Internal),
            // Some proxy's answer, perhaps, with the relayer's lost behind it.
            Self::NotARelayer { .. } => true,
            Self::Unreachable { .. } | Self::Setup(_) | Self::Signing(_) => false,
        }
    }

    /// Whether this refusal proves that no earlier attempt was accepted: the relayer looked for one first,
    /// and would have answered with it. Other refusals, such as by a halted relayer, prove nothing.
    fn knows_earlier_attempts(&self) -> bool {
        self.problem().is_some_and(|problem| {
            problem.decision.is_some()
                || matches!(
                    problem.code,
                    Code::NonceTaken
                        | Code::IdempotencyKeyReused
                        | Code::AlreadyApproved
                        | Code::ApprovalUnderWay
                        | Code::OpenWouldFail
                )
        })
    }

    /// The error of a call that changes something, whose earlier attempts may have taken effect or not.
    pub(crate) fn for_mutation(self, url: Url, earlier_may_have: bool) -> Self {
        match self {
            Self::Unknown { .. } => self,
            _ if self.may_have_taken_effect() || (earlier_may_have && !self.knows_earlier_attempts()) => {
                Self::Unknown { url, signed: None, source: Some(Box::new(self)) }
            }
            _ => self,
        }
    }
}
