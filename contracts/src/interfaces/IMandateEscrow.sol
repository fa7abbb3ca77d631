// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IUSDC} from "./IUSDC.sol";
import {Group, Hold, HoldState, Mandate, Payment, Reason, Terms} from "./Types.sol";

/// @title IMandateEscrow
/// @notice Holds an operator's tokens under terms that the operator approved once, and pays them out as the agent
/// signs, within those terms. What is left returns to the operator.
///
/// @dev Every time is exclusive: a payment or hold needs `start <= now < expiry` and `now < deadline`, a capture
/// `now < captureBy <= captureEnd`; a sweep takes what is held from `captureEnd` on. Amounts are base units of the one
/// token. Everything follows from the events: a `Returned` means that the mandate has ended.
interface IMandateEscrow {
    // ---------------------------------------------------------------- events

    /// @notice A mandate was opened and `terms.cap` escrowed.
    /// @param mandate Its id
    /// @param operator Whose money it is
    /// @param agent Who signs payments and holds
    /// @param terms All that was approved: enough to call any other function
    event Opened(bytes32 indexed mandate, address indexed operator, address indexed agent, Terms terms);

    /// @notice A payment left the mandate for its payee. The rows of a netted run share one token transfer.
    /// @param mandate Its id
    /// @param payee Who was paid
    /// @param amount How much
    /// @param nonce The payment's, now used
    /// @param ref What the agent signed beside it: commits to what was paid for
    event Spent(bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce, bytes32 ref);

    /// @notice A row of a batch did not pay, and used no nonce. Only a hint: anyone can cause it with junk. A payment is
    /// dead only by its deadline, the end of its mandate, or a nonce used or retired.
    /// @param mandate The row's
    /// @param nonce The row's
    /// @param reason Why
    event Skipped(bytes32 indexed mandate, uint32 nonce, Reason reason);

    /// @notice An amount of the mandate was set aside for the payee.
    /// @param mandate Its id
    /// @param payee Who may capture it
    /// @param amount How much
    /// @param nonce Names the hold, and is used by it
    /// @param captureBy From when on nothing is captured
    /// @param ref What the agent signed beside it
    event Held(
        bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce, uint40 captureBy, bytes32 ref
    );

    /// @notice An amount left a hold for its payee.
    /// @param mandate Its id
    /// @param payee Who was paid
    /// @param amount How much
    /// @param nonce Names the hold
    event Captured(bytes32 indexed mandate, address indexed payee, uint64 amount, uint32 nonce);

    /// @notice A hold ended, and what it had left is the mandate's again. No token moved.
    /// @param mandate Its id
    /// @param amount What it had left
    /// @param nonce Names the hold
    event Released(bytes32 indexed mandate, uint64 amount, uint32 nonce);

    /// @notice Somebody paid back. `restored` of the amount is the mandate's budget again and stays in the escrow; the rest
    /// went from the payer to the operator, which the escrow does not measure.
    /// @param mandate Its id
    /// @param payer Who called
    /// @param amount What the payer gave
    /// @param restored What of it can be spent again
    /// @param ref What the payer said of it
    event Refunded(bytes32 indexed mandate, address indexed payer, uint64 amount, uint64 restored, bytes32 ref);

    /// @notice A mandate was ended by its operator or agent. Without `Returned` in the same transaction, the token refused
    /// the transfer, or there was nothing to return; `sweep` will return what waits.
    /// @param mandate Its id
    /// @param by Operator or agent: who called, or the operator who signed
    event Revoked(bytes32 indexed mandate, address indexed by);

    /// @notice What was left of an ended mandate went back. From holds only from `captureEnd` on, and then from all.
    /// @param mandate Its id
    /// @param to The operator, or whom it named
    /// @param fromRemaining What was not held
    /// @param fromHeld What was held
    event Returned(bytes32 indexed mandate, address indexed to, uint64 fromRemaining, uint64 fromHeld);

    /// @notice A guardian allowed or removed a submitter.
    /// @param guardian Who called
    /// @param submitter Whom
    /// @param allowed Whether it is a submitter from now on
    event SubmitterSet(address indexed guardian, address indexed submitter, bool allowed);

    // ---------------------------------------------------------------- errors

    /// @notice The payment or hold does not pass.
    error Refused(Reason reason);

    /// @notice A mandate was opened with these terms before. Its opener may have been anyone: for whoever wanted it
    /// opened, this is success.
    error AlreadyOpened(bytes32 mandate);

    /// @notice No mandate was opened with these terms.
    error UnknownMandate(bytes32 mandate);

    /// @notice The mandate has been revoked or swept already.
    error AlreadyEnded(bytes32 mandate);

    /// @notice The mandate is neither revoked nor expired.
    error NotEnded(bytes32 mandate, uint40 expiry);

    /// @notice Nothing is left that could be returned now.
    error NothingToSweep(bytes32 mandate);

    /// @notice The hold has not exactly the expected amount left: somebody captured or released in between. An ended hold
    /// has nothing left, like one that was never made.
    error HoldChanged(bytes32 mandate, uint32 nonce, uint64 expected, uint64 held);

    /// @notice The mandate has no hold of this nonce, or it has ended.
    error NoSuchHold(bytes32 mandate, uint32 nonce);

    /// @notice The caller is neither the hold's payee nor a submitter of the guardian; with a guardian of zero there are no
    /// submitters.
    error NotPayeeOrSubmitter(address caller, address payee, address guardian);

    /// @notice Nothing is captured from `captureBy` on.
    error CaptureByPassed(uint40 captureBy, uint256 timestamp);

    /// @notice Before `captureBy` a hold is released by its payee or a submitter alone.
    error NotYetReleasable(address caller, uint40 captureBy, uint256 timestamp);

    /// @notice From `captureEnd` on no hold is released; `sweep` returns what is held.
    error CaptureEndPassed(uint40 captureEnd, uint256 timestamp);

    /// @notice A capture or refund of nothing.
    error AmountIsZero();

    /// @notice More than the hold has left.
    error AmountAboveHeld(uint64 amount, uint64 held);

    /// @notice Only the operator opens by an allowance, which says nothing of terms.
    error NotOperator(address caller, address operator);

    /// @notice Only operator and agent end a mandate by a call of their own.
    error NotOperatorOrAgent(address caller, address operator, address agent);

    /// @notice The signature is not the operator's, for this message, chain and escrow.
    error NotSignedByOperator(address operator);

    /// @notice The operator's message has lapsed.
    error DeadlinePassed(uint40 deadline, uint256 timestamp);

    /// @notice The recipient is zero, the escrow or the token.
    error BadRecipient(address recipient);

    /// @notice Terms of nobody's money.
    error OperatorIsZero();

    /// @notice Terms under which nobody could sign.
    error AgentIsZero();

    /// @notice Terms of no money.
    error CapIsZero();

    /// @notice Terms under which no payment could ever pass.
    error StartNotBeforeExpiry(uint40 start, uint40 expiry);

    /// @notice Terms whose holds would end before the mandate.
    error ExpiryAfterCaptureEnd(uint40 expiry, uint40 captureEnd);

    /// @notice Terms whose holds could stay longer than a hold's time fits its slot.
    error CaptureEndTooLate(uint40 captureEnd, uint40 latest);

    /// @notice Terms that are over already.
    error ExpiryNotInFuture(uint40 expiry, uint256 timestamp);

    /// @notice Exactly one of the two is zero.
    error WindowIncomplete(uint32 window, uint64 windowCap);

    /// @notice A window's cap that would never be asked.
    error WindowCapAboveCap(uint64 windowCap, uint64 cap);

    /// @notice A payment's maximum that would never be asked.
    error PerPaymentAboveCap(uint64 perPayment, uint64 cap);

    /// @notice The balance did not grow by exactly what was pulled.
    error TransferDeltaMismatch(uint256 expected, uint256 balanceBefore, uint256 balanceAfter);

    /// @notice The token refused to pay out.
    error TransferFailed(address to, uint256 amount);

    /// @notice A side array is neither empty nor exactly as long as the batch has rows.
    error BadSideArrays(uint256 rows, uint256 proofs, uint256 signatures);

    /// @notice Too little gas to ask the signer's wallet fairly; send more.
    error GasTooLow(uint256 available, uint256 required);

    /// @notice At deployment: there is no contract where the token should be.
    error TokenWithoutCode(address token);

    // ---------------------------------------------------------------- open

    /// @notice Opens a mandate and pulls its cap from the operator by allowance.
    /// @dev Only the operator: an allowance approves no terms.
    /// @param terms The terms
    /// @return mandate Its id
    function open(Terms calldata terms) external returns (bytes32 mandate);

    /// @notice Opens a mandate and pulls its cap by an EIP-2612 permit, or by an allowance that is there. For the operator, or
    /// anyone with the operator's EIP-712 signature of the terms.
    /// @dev A permit that fails is passed over: anyone can spend it first, and the allowance is what counts.
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
    /// @dev Anyone may send it; there is nothing else that they could open with it.
    /// @param terms The terms
    /// @param validAfter As signed
    /// @param validBefore As signed
    /// @param signature 65 bytes, or what the operator's wallet takes if the operator has code
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
    /// @param signature What the agent's wallet takes (ERC-1271); empty: the wallet is not asked
    function spend(Terms calldata terms, Payment calldata payment, bytes32[] calldata proof, bytes calldata signature)
        external;

    /// @notice Makes many payments. A row that does not pass is skipped and costs no other row anything.
    /// @dev Consecutive rows of one group with one payee, at most 256, are a run: one transfer pays them all. In a run,
    /// `Skipped` of rows that failed by themselves come before `Spent` of those that paid. Views show a group's
    /// payments once the group is through.
    /// @param groups The rows, grouped by mandate
    /// @param proofs One per row over all groups in order, or empty
    /// @param signatures One per row over all groups in order, or empty
    /// @return paid Number of rows that paid
    function settle(Group[] calldata groups, bytes32[][] calldata proofs, bytes[] calldata signatures)
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
    /// @param signature What the agent's wallet takes (ERC-1271); empty: the wallet is not asked
    function hold(Terms calldata terms, Hold calldata hold_, bytes32[] calldata proof, bytes calldata signature)
        external;

    /// @notice Pays a part or all of a hold to its payee. For the payee, or a submitter of a guardian that is not zero;
    /// also after the mandate's end, before `captureBy`.
    /// @param terms The terms
    /// @param nonce Names the hold
    /// @param expectedHeld What the hold has left, so that no repeat pays twice
    /// @param amount What to pay
    /// @param close Whether to release the rest in the same call; a hold with nothing left ends anyway
    function capture(Terms calldata terms, uint32 nonce, uint64 expectedHeld, uint64 amount, bool close) external;

    /// @notice Ends a hold; what it has left is the mandate's again. For the payee or a submitter of a guardian that is
    /// not zero; from `captureBy` on for anyone.
    /// @dev Moves no token, and so cannot fail for one. After the mandate's end, `sweep` returns what was released.
    /// @param terms The terms
    /// @param nonce Names the hold
    function release(Terms calldata terms, uint32 nonce) external;

    // ---------------------------------------------------------------- refund

    /// @notice Gives money back to the mandate. While it is open and before its expiry, and if its terms say so, the budget
    /// grows again, up to the cap; all else goes straight to the operator. Anyone may pay.
    /// @param terms The terms
    /// @param amount Pulled from the caller by allowance
    /// @param ref Says what is paid back, as the payment's `ref` said what was paid
    function refund(Terms calldata terms, uint64 amount, bytes32 ref) external;

    // ---------------------------------------------------------------- end

    /// @notice Ends a mandate from this block on and returns what is not held; from `captureEnd` on, everything. For the
    /// operator or the agent. Holds live on.
    /// @dev Never fails because the token refuses the transfer: the mandate ends, and `sweep` returns the money later.
    /// @param terms The terms
    function revoke(Terms calldata terms) external;

    /// @notice Ends a mandate as the operator would, by its signature of `Revoke(bytes32 mandate)`. Anyone may send it.
    /// @param terms The terms
    /// @param signature The operator's: 65 bytes of its key, or what its wallet takes
    function revokeWithSignature(Terms calldata terms, bytes calldata signature) external;

    /// @notice Returns what is not held to the operator, once the mandate is revoked or expired; from `captureEnd` on,
    /// everything. Anyone may trigger it, as often as something is left.
    /// @param terms The terms
    /// @return amount What was returned
    function sweep(Terms calldata terms) external returns (uint256 amount);

    /// @notice The same to another recipient, by the operator's signature of
    /// `Sweep(bytes32 mandate,address recipient,uint40 deadline)`: for an operator whom the token refuses. Anyone may send
    /// it, as often as something is left, before the deadline.
    /// @param terms The terms
    /// @param recipient Who gets it; neither zero, the escrow nor the token
    /// @param deadline Of the signature, exclusive
    /// @param signature The operator's: 65 bytes of its key, or what its wallet takes
    /// @return amount What was returned
    function sweepTo(Terms calldata terms, address recipient, uint40 deadline, bytes calldata signature)
        external
        returns (uint256 amount);

    // ---------------------------------------------------------------- guardian

    /// @notice Allows or removes a submitter of the caller, who is the guardian.
    /// @param submitter Who may send payments and holds of mandates with this guardian, or no longer
    /// @param allowed Whether it may
    function setSubmitter(address submitter, bool allowed) external;

    // ---------------------------------------------------------------- views

    /// @notice Why the payment would not pass now if `submitter` sent it; `None` if it would. Asks what `spend` asks, in
    /// the same order. Whether the token would pay is not asked.
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

    /// @notice Why the hold would not pass now if `submitter` sent it; `None` if it would. Asks what `hold` asks, in the
    /// same order.
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
    /// @param nonce Names the hold
    function holdOf(bytes32 mandate, uint32 nonce) external view returns (HoldState memory);

    /// @notice The state of a mandate; all zero if it was never opened.
    /// @param mandate Its id
    function mandateOf(bytes32 mandate) external view returns (Mandate memory);

    /// @notice The id of terms: their EIP-712 digest under the domain of deployment, so that a change of the chain id
    /// strands no money.
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
