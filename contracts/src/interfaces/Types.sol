// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @dev What an operator approves, once. Immutable: hashed into the mandate's id and passed in calldata ever after.
/// Amounts are the token's base units, times are Unix seconds.
struct Terms {
    /// @dev Funds the mandate; everything left returns here.
    address operator;
    /// @dev Signs payments: an account with a key, an EIP-7702 account or an ERC-1271 wallet.
    address agent;
    /// @dev Whose submitters may act; zero: anyone may submit what the agent signed.
    address guardian;
    /// @dev Escrowed in full when opened; no more than this ever leaves, net.
    uint64 cap;
    /// @dev Maximum of one payment or hold; 0: none.
    uint64 perPayment;
    /// @dev Maximum newly committed within any `window` seconds; 0: none.
    uint64 windowCap;
    /// @dev Length of the rolling window in seconds; 0: none.
    uint32 window;
    /// @dev First second at which it can be spent.
    uint40 start;
    /// @dev From this second on: no new payment, no new hold.
    uint40 expiry;
    /// @dev From this second on: no capture, no release; everything can be swept. Not before `expiry`, and at most 90 days after
    /// it: holds can lock what is left until then.
    uint40 captureEnd;
    /// @dev Merkle root of the payees that may be paid; zero: any payee.
    bytes32 payees;
    /// @dev keccak256 of the intent document, which carries a random nonce and so makes equal terms distinct.
    bytes32 intent;
    /// @dev Whether a refund goes back to the budget, or straight to the operator.
    bool refundsRestoreBudget;
}

/// @dev One payment, signed by the agent as
/// `Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)`.
struct Payment {
    address payee;
    uint64 amount;
    /// @dev Unordered within 88 of the lowest live one; see NonceWindow.
    uint32 nonce;
    /// @dev From this second on the signature is not accepted.
    uint40 deadline;
    /// @dev Commits to what is being paid for: method, URL, body digest, invoice.
    bytes32 ref;
    /// @dev The agent's signature in the compact form of ERC-2098; ignored if a wallet signature proves the payment.
    bytes32 r;
    bytes32 vs;
}

/// @dev An amount to be set aside for a payee, signed by the agent as
/// `Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32 ref)`.
struct Hold {
    /// @dev The amount, its payee and its nonce, which is one of the payments' and identifies the hold. `(r, vs)` signs the
    /// whole hold.
    Payment payment;
    /// @dev From this second on nothing is captured, and anyone may release; not after the mandate's `captureEnd`.
    uint40 captureBy;
}

/// @dev A payment and the terms of its mandate.
struct Row {
    Terms terms;
    Payment payment;
}

/// @dev The rows of a batch that belong to one mandate.
struct Group {
    Terms terms;
    Payment[] payments;
}

enum Status {
    None,
    Open,
    Ended
}

/// @dev The state of a mandate, in one slot:
///
/// | bits    | field     | holds                                                          |
/// | ------- | --------- | -------------------------------------------------------------- |
/// | 0–63    | remaining | what can still be spent, or returned once the mandate is over  |
/// | 64–127  | held      | what is set aside in holds                                     |
/// | 128–215 | nonceBits | bit i: whether nonce `nonceBase + i` is used                   |
/// | 216–247 | nonceBase | lowest live nonce; every lower one is retired                  |
/// | 248–255 | status    | None, Open, Ended. Never goes back, so closed terms stay closed |
struct Mandate {
    uint64 remaining;
    uint64 held;
    uint88 nonceBits;
    uint32 nonceBase;
    Status status;
}

/// @dev The state of a hold, in one slot. Cleared when the hold ends; its nonce stays used, so it cannot be made again. A sweep
/// from `captureEnd` on does not clear it, and no function can use it then.
///
/// | bits    | field     | holds                                                      |
/// | ------- | --------- | ---------------------------------------------------------- |
/// | 0–159   | payee     | who is paid what is captured                               |
/// | 160–223 | left      | what is neither captured nor released                      |
/// | 224–255 | captureBy | first second at which nothing is captured and anyone may   |
/// |         |           | release; fits, since it is not after the mandate's own end |
struct HoldState {
    address payee;
    uint64 left;
    uint32 captureBy;
}

/// @dev Why a payment or a hold is refused; `None` if it passes. Checked in this order; the two about `captureBy` are checked
/// for holds only.
enum Reason {
    None,
    /// @dev No mandate was opened with these terms, here.
    UnknownMandate,
    /// @dev Revoked, swept or rolled, or withdrawn before anybody opened it.
    Ended,
    /// @dev The sender is no submitter of the guardian.
    NotSubmitter,
    /// @dev Before `start`.
    NotStarted,
    /// @dev At or after `expiry`.
    Expired,
    /// @dev At or after the hold's `captureBy`: nothing could be captured.
    CaptureByPassed,
    /// @dev The hold's `captureBy` is after the mandate's `captureEnd`.
    CaptureByTooLate,
    /// @dev At or after the own deadline of the payment or hold.
    DeadlinePassed,
    AmountZero,
    /// @dev The payee is zero, the escrow or the token; in `settleTo`, also any but the call's.
    BadPayee,
    /// @dev The proof does not lead from the payee to `payees`.
    PayeeNotAllowed,
    /// @dev Above the maximum of one payment or hold.
    AbovePerPayment,
    /// @dev Above what the mandate has left.
    InsufficientBudget,
    /// @dev Below the lowest live nonce: this nonce can never pay or hold, unless a row that was undone in the same run
    /// retired it.
    NonceRetired,
    /// @dev This nonce has paid or held, or a row that was undone in the same run would have used it.
    NonceUsed,
    /// @dev More than `windowCap` within `window` seconds.
    WindowExceeded,
    /// @dev Not signed by the agent.
    BadSignature,
    /// @dev The token refused the transfer. The only one that cannot be foreseen.
    TransferFailed
}
