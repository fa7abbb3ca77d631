// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IUSDC} from "./IUSDC.sol";
import {Group, Hold, HoldState, Mandate, Payment, Reason, Row, Terms} from "./Types.sol";

/// @title IMandateEscrow
/// @notice Holds an operator's tokens under terms that the operator approved once, and pays them out as the agent
/// signs, within those terms. What is left returns to the operator.
///
/// @dev Every time is exclusive: a payment or hold needs `start <= now < expiry` and `now < deadline`, a capture
/// `now < captureBy <= captureEnd`; a sweep takes what is held from `captureEnd` on. Amounts are base units of the one
/// token. Everything follows from the events: a `Returned` means that the mandate has ended, and so does a `Rolled` from it.
interface IMandateEscrow {
    // ---------------------------------------------------------------- events

    /// @notice A mandate was opened and `terms.cap` escrowed.
    /// @param mandate Its id
    /// @param operator The account that funded it
    /// @param agent The account that signs its payments and holds
    /// @param terms The terms, which every other function takes
    event Opened(bytes32 indexed mandate, address indexed operator, address indexed agent, Terms terms);

    /// @notice A payment was made. Rows of a batch that form a run share one token transfer.
    /// @param mandate Its id
    /// @param payee The account that was paid
    /// @param amount In base units
    /// @param nonce The payment's nonce, now used
    /// @param ref The reference that the agent signed, which commits to what was paid for
    event Spent(bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce, bytes32 ref);

    /// @notice A row of a batch did not pay, and used no nonce. Only a hint: anyone can cause it with junk, and in a run that
    /// the token refuses, the other rows' reasons may come of rows that were undone with it: their nonces are then neither
    /// used nor retired. A payment is dead only by its deadline, the end of its mandate, or a `Spent` or `Held` that used
    /// its nonce or retired it.
    /// @param mandate The row's mandate
    /// @param nonce The row's nonce
    /// @param reason Why it did not pay
    event Skipped(bytes32 indexed mandate, uint32 nonce, Reason reason);

    /// @notice An amount of the mandate was set aside for the payee.
    /// @param mandate Its id
    /// @param payee The account that is paid what is captured
    /// @param amount In base units
    /// @param nonce The hold's nonce, now used; identifies the hold
    /// @param captureBy From this second on nothing can be captured
    /// @param ref The reference that the agent signed
    event Held(
        bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce, uint40 captureBy, bytes32 ref
    );

    /// @notice Part or all of a hold was paid to its payee.
    /// @param mandate Its id
    /// @param payee The account that was paid
    /// @param amount In base units
    /// @param nonce Identifies the hold
    event Captured(bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce);

    /// @notice A hold ended, and the rest of it returned to the mandate's budget. No token moved.
    /// @param mandate Its id
    /// @param amount The rest
    /// @param nonce Identifies the hold
    event Released(bytes32 indexed mandate, uint64 amount, uint32 nonce);

    /// @notice A payer refunded. `restored` of the amount is the mandate's budget again and stays in the escrow; the rest
    /// went from the payer to the operator, which the escrow does not measure.
    /// @param mandate Its id
    /// @param payer The caller
    /// @param amount The amount that the payer transferred
    /// @param restored The part of it that can be spent again
    /// @param ref Reference supplied by the payer
    event Refunded(bytes32 indexed mandate, address indexed payer, uint64 amount, uint64 restored, bytes32 ref);

    /// @notice A mandate was ended by its operator or agent. Without `Returned` in the same transaction, the token refused
    /// the transfer, or there was nothing to return; `sweep` will return what waits. Without an `Opened` before, its
    /// operator withdrew terms that nobody had opened: they never open.
    /// @param mandate Its id
    /// @param by The operator or agent that called, or the operator that signed
    event Revoked(bytes32 indexed mandate, address indexed by);

    /// @notice The rest of an ended mandate was returned. From `captureEnd` on it includes all holds, before that none.
    /// @param mandate Its id
    /// @param to The operator, or the recipient it named
    /// @param fromRemaining The part that was not held
    /// @param fromHeld The part that was held
    event Returned(bytes32 indexed mandate, address indexed to, uint64 fromRemaining, uint64 fromHeld);

    /// @notice The operator ended a mandate and opened another one with its money. The `Opened` of `to` comes before it. What
    /// `from` had left above `carried` went to the operator, by a `Returned` in the same transaction; what `to.cap` exceeds
    /// `carried` by was pulled from the operator. Holds of `from` stay with it.
    /// @param from The mandate that ended
    /// @param to The mandate that opened
    /// @param carried The amount that moved from one to the other within the escrow
    event Rolled(bytes32 indexed from, bytes32 indexed to, uint64 carried);

    /// @notice A guardian allowed or removed a submitter.
    /// @param guardian The caller
    /// @param submitter The account that was allowed or removed
    /// @param allowed Whether it is a submitter from now on
    event SubmitterSet(address indexed guardian, address indexed submitter, bool allowed);

    // ---------------------------------------------------------------- errors

    /// @notice The payment or hold is outside the mandate.
    error Refused(Reason reason);

    /// @notice A mandate with these terms is open. Its opener may have been anyone: for whoever wanted it open, this is
    /// success.
    error AlreadyOpened(bytes32 mandate);

    /// @notice No mandate was opened with these terms.
    error UnknownMandate(bytes32 mandate);

    /// @notice The mandate has been revoked, swept or rolled already, or its terms were withdrawn before anybody opened them.
    error AlreadyEnded(bytes32 mandate);

    /// @notice The mandate is neither revoked nor expired.
    error NotEnded(bytes32 mandate, uint40 expiry);

    /// @notice There is nothing to return now.
    error NothingToSweep(bytes32 mandate);

    /// @notice The hold has not exactly the expected amount left: somebody captured or released in between. An ended hold
    /// has nothing left, like one that was never made.
    error HoldChanged(bytes32 mandate, uint32 nonce, uint64 expected, uint64 held);

    /// @notice The mandate has no hold of this nonce, or it has ended.
    error NoSuchHold(bytes32 mandate, uint32 nonce);

    /// @notice The caller is neither the hold's payee nor a submitter of the guardian; with a guardian of zero there are no
    /// submitters.
    error NotPayeeOrSubmitter(address caller, address payee, address guardian);

    /// @notice At or after `captureBy`, nothing can be captured.
    error CaptureByPassed(uint40 captureBy, uint256 timestamp);

    /// @notice Before `captureBy` a hold is released by its payee or a submitter alone.
    error NotYetReleasable(address caller, uint40 captureBy, uint256 timestamp);

    /// @notice From `captureEnd` on no hold is released; `sweep` returns what is held.
    error CaptureEndPassed(uint40 captureEnd, uint256 timestamp);

    /// @notice A capture or refund of zero.
    error AmountIsZero();

    /// @notice More than the hold has left.
    error AmountAboveHeld(uint64 amount, uint64 held);

    /// @notice Only the operator can open by an allowance: an allowance does not commit to terms.
    error NotOperator(address caller, address operator);

    /// @notice Only the operator and the agent can revoke by a call of their own.
    error NotOperatorOrAgent(address caller, address operator, address agent);

    /// @notice The signature is not the operator's, for this message, chain and escrow.
    error NotSignedByOperator(address operator);

    /// @notice Only a mandate of the same operator can replace another one.
    error OperatorDiffers(address from, address to);

    /// @notice More would have to be pulled from the operator than it allowed: less is left of the mandate than it expected.
    error PullAboveMaximum(uint64 pull, uint64 maxPull);

    /// @notice The deadline of the operator's message has passed.
    error DeadlinePassed(uint40 deadline, uint256 timestamp);

    /// @notice The recipient is zero, the escrow or the token.
    error BadRecipient(address recipient);

    /// @notice The operator is the zero address.
    error OperatorIsZero();

    /// @notice The agent is the zero address.
    error AgentIsZero();

    /// @notice The cap is zero.
    error CapIsZero();

    /// @notice `start` is not before `expiry`, so no payment could pass.
    error StartNotBeforeExpiry(uint40 start, uint40 expiry);

    /// @notice `expiry` is after `captureEnd`, so holds would end before the mandate.
    error ExpiryAfterCaptureEnd(uint40 expiry, uint40 captureEnd);

    /// @notice `captureEnd` is more than 90 days after `expiry`, or does not fit a hold's storage slot (2³² − 1).
    error CaptureEndTooLate(uint40 captureEnd, uint40 latest);

    /// @notice The mandate would be expired from the start.
    error ExpiryNotInFuture(uint40 expiry, uint256 timestamp);

    /// @notice Exactly one of `window` and `windowCap` is zero.
    error WindowIncomplete(uint32 window, uint64 windowCap);

    /// @notice `windowCap` exceeds `cap`, so it could never bind.
    error WindowCapAboveCap(uint64 windowCap, uint64 cap);

    /// @notice `perPayment` exceeds `cap`, so it could never bind.
    error PerPaymentAboveCap(uint64 perPayment, uint64 cap);

    /// @notice The balance did not grow by exactly what was pulled.
    error TransferDeltaMismatch(uint256 expected, uint256 balanceBefore, uint256 balanceAfter);

    /// @notice The token refused the transfer.
    error TransferFailed(address to, uint256 amount);

    /// @notice `proofs` or `signatures` is neither empty nor as long as the batch.
    error BadSideArrays(uint256 rows, uint256 proofs, uint256 signatures);

    /// @notice Too little gas for the signer's ERC-1271 wallet: send more. At least `required` must be available for it, also
    /// where it may use all that there is.
    error GasTooLow(uint256 available, uint256 required);

    /// @notice At deployment: the token's address has no code.
    error TokenWithoutCode(address token);

    /// @notice At deployment: the token has not the 6 decimals of USDC. Amounts have 64 bits, which would be 18.4 of a token
    /// of 18 decimals.
    error TokenWithoutSixDecimals(address token, uint8 decimals);

    // ---------------------------------------------------------------- open

    /// @notice Opens a mandate and pulls its cap from the operator by allowance.
    /// @dev Only the operator: an allowance approves no terms.
    /// @param terms The terms
    /// @return mandate Its id
    function open(Terms calldata terms) external returns (bytes32 mandate);

    /// @notice Opens a mandate and pulls its cap by an EIP-2612 permit, or by an existing allowance. Callable by the operator,
    /// or by anyone with the operator's EIP-712 signature of the terms.
    /// @dev A permit that fails is ignored: anyone can use it first, and only the allowance matters.
    /// @param terms The terms
    /// @param deadline Of the permit, as signed
    /// @param permit The operator's signature of a permit of exactly `terms.cap` to this escrow
    /// @param signature The operator's signature of `terms` under this contract's domain; ignored if the operator calls
    /// @return mandate Its id
    function openWithPermit(Terms calldata terms, uint256 deadline, bytes calldata permit, bytes calldata signature)
        external
        returns (bytes32 mandate);

    /// @notice Opens a mandate and pulls its cap by an EIP-3009 `ReceiveWithAuthorization` of the operator whose nonce
    /// is the mandate's id: one signature, without ETH, funds and approves exactly these terms.
    /// @dev Callable by anyone: the signature opens exactly this mandate and nothing else.
    /// @param terms The terms
    /// @param validAfter As signed
    /// @param validBefore As signed
    /// @param signature 65 bytes, or what the operator's wallet accepts if the operator has code
    /// @return mandate Its id
    function openWithAuthorization(
        Terms calldata terms,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external returns (bytes32 mandate);

    // ---------------------------------------------------------------- pay

    /// @notice Makes one payment that the agent signed with a key, to any payee.
    /// @param terms The terms
    /// @param payment The payment
    function spend(Terms calldata terms, Payment calldata payment) external;

    /// @notice Makes one payment that the agent signed.
    /// @param terms The terms
    /// @param payment The payment; its `(r, vs)` counts first
    /// @param proof Leads from the payee to `terms.payees`; ignored if that is zero
    /// @param signature What the agent's wallet accepts (ERC-1271); if empty, the wallet is not called. It may use all gas
    /// of the call
    function spend(Terms calldata terms, Payment calldata payment, bytes32[] calldata proof, bytes calldata signature)
        external;

    /// @notice Makes many payments. A row that does not pass is skipped and costs no other row anything.
    /// @dev Consecutive rows of one group with one payee, at most 256, are a run: one transfer pays them all. In a run,
    /// `Skipped` of rows that failed by themselves come before `Spent` of those that paid. Views show a group's
    /// payments once the group is through. An agent's wallet may use 300,000 gas for a row, which is skipped if that is not
    /// enough: such an agent is paid for by `spend`. That is the most that a row costs its batch besides its own checks.
    /// @param groups The rows, grouped by mandate
    /// @param proofs One per row over all groups in order, or empty
    /// @param signatures One per row over all groups in order, or empty
    /// @return paid Number of rows that paid
    function settle(Group[] calldata groups, bytes32[][] calldata proofs, bytes[] calldata signatures)
        external
        returns (uint256 paid);

    /// @notice Makes many payments to one payee, out of any number of mandates, by a single transfer. A row that does not pass
    /// is skipped and costs no other row anything. If the token refuses the payee, the call reverts: no row could have been
    /// paid.
    /// @dev For a payee whom many mandates pay, a row of each: what one mandate pays is cheaper in `settle`, whose rows share
    /// their terms. What a row may cost is the same.
    /// @param payee Who is paid; a row with another payee is skipped as `BadPayee`
    /// @param rows The rows, of any mandates in any order
    /// @param proofs One per row, or empty
    /// @param signatures One per row, or empty
    /// @return paid Number of rows that paid
    function settleTo(address payee, Row[] calldata rows, bytes32[][] calldata proofs, bytes[] calldata signatures)
        external
        returns (uint256 paid);

    // ---------------------------------------------------------------- hold

    /// @notice Sets an amount aside for a payee, any payee, signed by the agent with a key.
    /// @param terms The terms
    /// @param hold_ The hold
    function hold(Terms calldata terms, Hold calldata hold_) external;

    /// @notice Sets an amount aside for a payee, signed by the agent, until it is captured or released. It counts like a
    /// payment, and its nonce is one of the payments'.
    /// @param terms The terms
    /// @param hold_ The hold; the `(r, vs)` of its payment counts first
    /// @param proof Leads from the payee to `terms.payees`; ignored if that is zero
    /// @param signature What the agent's wallet accepts (ERC-1271); if empty, the wallet is not called. It may use all gas
    /// of the call
    function hold(Terms calldata terms, Hold calldata hold_, bytes32[] calldata proof, bytes calldata signature)
        external;

    /// @notice Pays part or all of a hold to its payee, before `captureBy`, also after the mandate's end. Callable by the
    /// payee, or by a submitter when the mandate has a guardian.
    /// @param terms The terms
    /// @param nonce Identifies the hold
    /// @param expectedHeld What the hold has left, so that no repeat pays twice
    /// @param amount What to pay
    /// @param close Whether to release the rest in the same call; a hold with nothing left ends anyway
    function capture(Terms calldata terms, uint32 nonce, uint64 expectedHeld, uint64 amount, bool close) external;

    /// @notice Ends a hold; what it has left is the mandate's again. Callable by the payee, or by a submitter when the
    /// mandate has a guardian; from `captureBy` on by anyone.
    /// @dev Moves no token, so the token cannot make it fail. After the mandate's end, `sweep` returns what was released.
    /// @param terms The terms
    /// @param nonce Identifies the hold
    function release(Terms calldata terms, uint32 nonce) external;

    // ---------------------------------------------------------------- refund

    /// @notice Refunds a mandate. While it is open and before its expiry, and if its terms say so, the refund restores the
    /// budget, up to the cap; anything else goes straight to the operator. Callable by anyone.
    /// @dev The only way back. The escrow is the sender of every payment's `Transfer`, but a transfer to it belongs to nobody,
    /// and nobody can take it out.
    /// @param terms The terms
    /// @param amount Pulled from the caller by allowance
    /// @param ref Reference supplied by the payer, such as the payment's `ref`
    function refund(Terms calldata terms, uint64 amount, bytes32 ref) external;

    // ---------------------------------------------------------------- end

    /// @notice Ends a mandate from this block on and returns what is not held; from `captureEnd` on, everything. Callable by
    /// the operator or the agent. Holds remain. The operator can also revoke terms that nobody has opened: they never open.
    /// @dev Never fails because the token refuses the transfer: the mandate ends, and `sweep` returns the money later.
    /// @param terms The terms
    function revoke(Terms calldata terms) external;

    /// @notice Ends a mandate by the operator's signature of `Revoke(bytes32 mandate)`, or withdraws terms that nobody has
    /// opened. Callable by anyone.
    /// @param terms The terms
    /// @param signature The operator's: 65 bytes of its key, or what its wallet accepts
    function revokeWithSignature(Terms calldata terms, bytes calldata signature) external;

    /// @notice Returns what is not held to the operator, once the mandate is revoked or expired; from `captureEnd` on,
    /// everything. Callable by anyone, whenever something is left.
    /// @param terms The terms
    /// @return amount What was returned
    function sweep(Terms calldata terms) external returns (uint256 amount);

    /// @notice Like `sweep`, to another recipient: for an operator whom the token refuses. Callable by the operator, or by
    /// anyone with the operator's signature of `Sweep(bytes32 mandate,address recipient,uint40 deadline)`; before the
    /// deadline, whenever something is left.
    /// @dev The operator's own call needs no signature, so that an operator contract without ERC-1271 has a way out.
    /// @param terms The terms
    /// @param recipient The account to pay; neither zero, the escrow nor the token
    /// @param deadline Exclusive, also for the operator's own call
    /// @param signature The operator's: 65 bytes of its key, or what its wallet accepts; ignored if the operator calls
    /// @return amount What was returned
    function sweepTo(Terms calldata terms, address recipient, uint40 deadline, bytes calldata signature)
        external
        returns (uint256 amount);

    /// @notice Ends a mandate and opens another one of the same operator with its money, at once: to extend it, to change its
    /// agent, guardian or payees, to raise or lower its cap. What the old one has left goes into the new one; only the
    /// difference to the new cap is pulled from the operator by allowance, or returned to it. Callable by the operator, or by
    /// anyone with its signature of `Roll(bytes32 from,bytes32 to,uint64 maxPull)`.
    /// @dev The signatures of the old agent die at once. Holds stay with the old mandate, until captured, released or swept. The
    /// new one starts with nonces and window of its own. `maxPull` is what protects the operator from payments that come
    /// first: they leave less in the old mandate, so that more would be pulled.
    ///
    /// The message has no deadline. To withdraw it, revoke either mandate: the old one, or the terms of the new one.
    /// @param from The terms of the open mandate; it may have expired
    /// @param to The terms of the new mandate, as for `open`
    /// @param maxPull The most that may be pulled from the operator
    /// @param signature The operator's: 65 bytes of its key, or what its wallet accepts; ignored if the operator calls
    /// @return mandate The new mandate's id
    function roll(Terms calldata from, Terms calldata to, uint64 maxPull, bytes calldata signature)
        external
        returns (bytes32 mandate);

    // ---------------------------------------------------------------- guardian

    /// @notice Allows or removes a submitter of the caller, who is the guardian.
    /// @param submitter The account
    /// @param allowed Whether it may send payments and holds of mandates with this guardian
    function setSubmitter(address submitter, bool allowed) external;

    // ---------------------------------------------------------------- views

    /// @notice Why the payment would be refused now if `submitter` sent it; `None` if it would pass. Runs the checks of
    /// `spend`, in the same order. Whether the token would transfer is not checked, nor whether an agent's wallet can do
    /// with the gas that a row of `settle` gives it.
    /// @param terms The terms
    /// @param payment The payment
    /// @param proof As for `spend`
    /// @param signature As for `spend`
    /// @param submitter Who would send it
    function canSpend(
        Terms calldata terms,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason);

    /// @notice Why the hold would be refused now if `submitter` sent it; `None` if it would pass. Runs the checks of `hold`,
    /// in the same order.
    /// @param terms The terms
    /// @param hold_ The hold
    /// @param proof As for `hold`
    /// @param signature As for `hold`
    /// @param submitter Who would send it
    function canHold(
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason);

    /// @notice The state of a hold; all zero if it was never made, or has ended.
    /// @param mandate The mandate's id
    /// @param nonce Identifies the hold
    function holdOf(bytes32 mandate, uint32 nonce) external view returns (HoldState memory);

    /// @notice The state of a mandate; all zero if it was never opened.
    /// @param mandate Its id
    function mandateOf(bytes32 mandate) external view returns (Mandate memory);

    /// @notice The id of terms: their EIP-712 digest under the domain of deployment, so that a change of the chain id
    /// strands no funds.
    /// @param terms The terms
    function idOf(Terms calldata terms) external view returns (bytes32);

    /// @notice Whether the guardian has allowed the submitter.
    /// @param guardian A mandate's guardian
    /// @param submitter Who would send
    function isSubmitter(address guardian, address submitter) external view returns (bool);

    /// @notice The one token.
    function token() external view returns (IUSDC);

    /// @notice The EIP-712 domain of signed messages, for the current chain id.
    function domainSeparator() external view returns (bytes32);
}
