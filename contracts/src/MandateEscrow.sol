// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "./EIP712.sol";
import {IMandateEscrow} from "./interfaces/IMandateEscrow.sol";
import {IUSDC} from "./interfaces/IUSDC.sol";
import {Digests} from "./libraries/Digests.sol";
import {NonceWindow} from "./libraries/NonceWindow.sol";
import {Payees} from "./libraries/Payees.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Slots} from "./libraries/Slots.sol";
import {Commitment, Group, Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "./Types.sol";

/// @title MandateEscrow
/// @notice Spending mandates for agents, over one token. No owner, no upgrade, no fee, and no call whose target a caller
/// chooses, but for the static question to an agent's wallet.
///
/// @dev Invariants, quoted by the tests:
/// I1  The sum of `remaining + held` over all mandates is never above the escrow's token balance.
/// I2  Per mandate: paid + remaining + held + returned = cap. What is captured is paid.
/// I3  A nonce pays or holds at most once.
/// I4  A hold ends at most once; captured ≤ held; nothing is captured from captureBy on.
/// I5  Nothing new is spent or held before start, from expiry on, or after the end. Ended stays ended; closed terms never
///     reopen.
/// I6  From captureEnd on the operator gets back everything, with no help from anyone, whoever triggers it, as long as
///     the token pays the escrow's transfers.
/// I7  No submitter or guardian can choose a payee, an amount above the signed one, or a receiver of leftovers.
/// I9  Every token that leaves has exactly one event with the same amount, or is the sum of a run's.
/// I10 No row of a batch changes the outcome of another, other than by using up the same mandate's budget or nonces.
/// I11 Any call at type maxima gives a typed error or a right result, never a wrapped one.
contract MandateEscrow is IMandateEscrow, EIP712, ReentrancyGuardTransient {
    using NonceWindow for Mandate;
    using SafeERC20 for IUSDC;
    using Slots for HoldState;
    using Slots for Mandate;

    /// @dev Mandates end within what a hold's slot can store.
    uint40 private constant LATEST_CAPTURE_END = type(uint32).max;

    /// @dev The rows of a run fit the bits of a word.
    uint256 private constant MAX_RUN = 256;

    IUSDC private immutable TOKEN;

    mapping(bytes32 mandate => Mandate) private _mandates;
    mapping(bytes32 mandate => mapping(uint32 nonce => HoldState)) private _holds;
    mapping(address guardian => mapping(address submitter => bool)) private _submitters;

    constructor(address token_) {
        if (token_.code.length == 0) revert TokenWithoutCode(token_);
        TOKEN = IUSDC(token_);
    }

    // ---------------------------------------------------------------- open

    /// @inheritdoc IMandateEscrow
    function open(Terms calldata terms) external nonReentrant returns (bytes32 mandate) {
        if (msg.sender != terms.operator) revert NotOperator(msg.sender, terms.operator);
        mandate = _open(terms);

        uint256 balanceBefore = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(terms.operator, address(this), terms.cap);
        _requireGrown(balanceBefore, terms.cap);
    }

    /// @inheritdoc IMandateEscrow
    function openWithAuthorization(
        Terms calldata terms,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external nonReentrant returns (bytes32 mandate) {
        mandate = _open(terms);

        uint256 balanceBefore = TOKEN.balanceOf(address(this));
        TOKEN.receiveWithAuthorization(
            terms.operator, address(this), terms.cap, validAfter, validBefore, mandate, signature
        );
        _requireGrown(balanceBefore, terms.cap);
    }

    /// @dev Opens the books; the caller pulls the cap, which approves the terms.
    function _open(Terms calldata terms) private returns (bytes32 mandate) {
        mandate = idOf(terms);
        if (_mandates[mandate].status != Status.None) revert AlreadyOpened(mandate);
        _requireSound(terms);

        _mandates[mandate].write(
            Mandate({remaining: terms.cap, held: 0, nonceBits: 0, nonceBase: 0, status: Status.Open})
        );
        emit Opened(mandate, terms.operator, terms.agent, terms);
    }

    function _requireSound(Terms calldata terms) private view {
        if (terms.operator == address(0)) revert OperatorIsZero();
        if (terms.agent == address(0)) revert AgentIsZero();
        if (terms.cap == 0) revert CapIsZero();
        if (terms.start >= terms.expiry) revert StartNotBeforeExpiry(terms.start, terms.expiry);
        if (terms.expiry > terms.captureEnd) revert ExpiryAfterCaptureEnd(terms.expiry, terms.captureEnd);
        if (terms.captureEnd > LATEST_CAPTURE_END) revert CaptureEndTooLate(terms.captureEnd, LATEST_CAPTURE_END);
        if (terms.expiry <= block.timestamp) revert ExpiryNotInFuture(terms.expiry, block.timestamp);
        if ((terms.window == 0) != (terms.windowCap == 0)) revert WindowIncomplete(terms.window, terms.windowCap);
        if (terms.window != 0) revert WindowUnsupported();
        if (terms.perPayment > terms.cap) revert PerPaymentAboveCap(terms.perPayment, terms.cap);
    }

    function _requireGrown(uint256 balanceBefore, uint256 amount) private view {
        uint256 balanceAfter = TOKEN.balanceOf(address(this));
        if (balanceAfter < balanceBefore || balanceAfter - balanceBefore != amount) {
            revert TransferDeltaMismatch(amount, balanceBefore, balanceAfter);
        }
    }

    // ---------------------------------------------------------------- pay

    /// @inheritdoc IMandateEscrow
    function spend(Terms calldata terms, Payment calldata payment) external nonReentrant {
        _spend(terms, payment, _noProof(), _noSignature());
    }

    /// @inheritdoc IMandateEscrow
    function spend(Terms calldata terms, Payment calldata payment, bytes32[] calldata proof, bytes calldata signature)
        external
        nonReentrant
    {
        _spend(terms, payment, proof, signature);
    }

    function _spend(Terms calldata terms, Payment calldata payment, bytes32[] calldata proof, bytes calldata signature)
        private
    {
        bytes32 id = idOf(terms);
        Mandate memory mandate = _mandates[id];

        Reason reason = _checkMandate(terms, mandate, msg.sender);
        if (reason == Reason.None) {
            reason = _checkPayment(_domain(), id, terms, mandate, payment, proof, signature);
        }
        if (reason != Reason.None) revert Refused(reason);

        _commit(mandate, payment);
        _mandates[id].write(mandate);
        emit Spent(id, payment.payee, payment.amount, payment.nonce, payment.ref);

        if (!TOKEN.trySafeTransfer(payment.payee, payment.amount)) revert Refused(Reason.TransferFailed);
    }

    /// @inheritdoc IMandateEscrow
    function settle(Group[] calldata groups, bytes32[][] calldata proofs, bytes[] calldata signatures)
        external
        nonReentrant
        returns (uint256 paid)
    {
        _requireSideArrays(groups, proofs.length, signatures.length);

        bytes32 domain = _domain();
        uint256 row = 0;
        for (uint256 i = 0; i < groups.length; ++i) {
            Payment[] calldata payments = groups[i].payments;
            paid += _settleGroup(domain, groups[i].terms, payments, row, proofs, signatures);
            row += payments.length;
        }
    }

    function _requireSideArrays(Group[] calldata groups, uint256 proofs, uint256 signatures) private pure {
        uint256 rows = 0;
        for (uint256 i = 0; i < groups.length; ++i) {
            rows += groups[i].payments.length;
        }
        if ((proofs != 0 && proofs != rows) || (signatures != 0 && signatures != rows)) {
            revert BadSideArrays(rows, proofs, signatures);
        }
    }

    /// @dev Works on a copy of the mandate, stored at the end if a row paid.
    function _settleGroup(
        bytes32 domain,
        Terms calldata terms,
        Payment[] calldata payments,
        uint256 row,
        bytes32[][] calldata proofs,
        bytes[] calldata signatures
    ) private returns (uint256 paid) {
        bytes32 id = idOf(terms);
        Mandate memory mandate = _mandates[id];

        Reason reason = _checkMandate(terms, mandate, msg.sender);
        if (reason != Reason.None) {
            for (uint256 i = 0; i < payments.length; ++i) {
                emit Skipped(id, payments[i].nonce, reason);
            }
            return 0;
        }

        uint256 next = 0;
        while (next < payments.length) {
            uint256 first = next;
            (uint64 remaining, uint88 nonceBits, uint32 nonceBase) =
                (mandate.remaining, mandate.nonceBits, mandate.nonceBase);

            address payee;
            uint256 passed;
            (next, payee, passed) = _commitRun(domain, id, terms, mandate, payments, first, row, proofs, signatures);
            if (passed == 0) continue;

            bool moved = TOKEN.trySafeTransfer(payee, remaining - mandate.remaining);
            if (!moved) {
                (mandate.remaining, mandate.nonceBits, mandate.nonceBase) = (remaining, nonceBits, nonceBase);
            }
            paid += _report(id, payee, payments, first, next, passed, moved);
        }
        if (paid != 0) _mandates[id].write(mandate);
    }

    /// @dev Commits to the copy what passes of the run that starts at `first`, and skips the rest.
    /// @return next The row after the run
    /// @return payee The run's payee
    /// @return passed Bit i: whether row `first + i` passed
    function _commitRun(
        bytes32 domain,
        bytes32 id,
        Terms calldata terms,
        Mandate memory mandate,
        Payment[] calldata payments,
        uint256 first,
        uint256 row,
        bytes32[][] calldata proofs,
        bytes[] calldata signatures
    ) private returns (uint256 next, address payee, uint256 passed) {
        uint256 end = first + MAX_RUN;
        if (end > payments.length) end = payments.length;
        uint256 bit = 1;

        for (next = first; next < end; ++next) {
            Payment calldata payment = payments[next];
            if (next == first) payee = payment.payee;
            else if (payment.payee != payee) break;
            Reason reason = _checkPayment(
                domain,
                id,
                terms,
                mandate,
                payment,
                proofs.length == 0 ? _noProof() : proofs[row + next],
                signatures.length == 0 ? _noSignature() : signatures[row + next]
            );
            if (reason == Reason.None) {
                _commit(mandate, payment);
                passed |= bit;
            } else {
                emit Skipped(id, payment.nonce, reason);
            }
            bit <<= 1;
        }
    }

    /// @dev One event for each row from `first` to `end` that passed.
    /// @return paid How many were paid
    function _report(
        bytes32 id,
        address payee,
        Payment[] calldata payments,
        uint256 first,
        uint256 end,
        uint256 passed,
        bool moved
    ) private returns (uint256 paid) {
        for (uint256 i = first; i < end; ++i) {
            if (passed & 1 == 1) {
                Payment calldata payment = payments[i];
                if (moved) {
                    emit Spent(id, payee, payment.amount, payment.nonce, payment.ref);
                    ++paid;
                } else {
                    emit Skipped(id, payment.nonce, Reason.TransferFailed);
                }
            }
            passed >>= 1;
        }
    }

    // ---------------------------------------------------------------- hold

    /// @inheritdoc IMandateEscrow
    function hold(Terms calldata terms, Hold calldata hold_) external nonReentrant {
        _hold(terms, hold_, _noProof(), _noSignature());
    }

    /// @inheritdoc IMandateEscrow
    function hold(Terms calldata terms, Hold calldata hold_, bytes32[] calldata proof, bytes calldata signature)
        external
        nonReentrant
    {
        _hold(terms, hold_, proof, signature);
    }

    function _hold(Terms calldata terms, Hold calldata hold_, bytes32[] calldata proof, bytes calldata signature)
        private
    {
        bytes32 id = idOf(terms);
        Mandate memory mandate = _mandates[id];

        Reason reason = _checkMandate(terms, mandate, msg.sender);
        if (reason == Reason.None) {
            reason = _checkHold(_domain(), id, terms, mandate, hold_, proof, signature);
        }
        if (reason != Reason.None) revert Refused(reason);

        mandate.remaining -= hold_.amount;
        mandate.held += hold_.amount;
        mandate.use(hold_.nonce);
        _mandates[id].write(mandate);
        // The cast loses nothing: captureBy is not after captureEnd, and that not after LATEST_CAPTURE_END.
        _holds[id][hold_.nonce].write(
            HoldState({payee: hold_.payee, left: hold_.amount, captureBy: uint32(hold_.captureBy)})
        );
        emit Held(id, hold_.payee, hold_.amount, hold_.nonce, hold_.captureBy, hold_.ref);
    }

    /// @inheritdoc IMandateEscrow
    function capture(Terms calldata terms, uint32 nonce, uint64 expectedHeld, uint64 amount, bool close)
        external
        nonReentrant
    {
        bytes32 id = idOf(terms);
        (Mandate storage mandate,) = _known(id);
        HoldState memory held = _holds[id][nonce];

        if (held.left != expectedHeld) revert HoldChanged(id, nonce, expectedHeld, held.left);
        if (held.left == 0) revert NoSuchHold(id, nonce);
        if (!_isPayeeOrSubmitter(terms, held.payee)) {
            revert NotPayeeOrSubmitter(msg.sender, held.payee, terms.guardian);
        }
        if (block.timestamp >= held.captureBy) revert CaptureByPassed(held.captureBy, block.timestamp);
        if (amount == 0) revert AmountIsZero();
        if (amount > held.left) revert AmountAboveHeld(amount, held.left);

        uint64 rest = held.left - amount;
        uint64 released = close ? rest : 0;
        mandate.held -= amount + released;
        mandate.remaining += released;
        if (rest == released) delete _holds[id][nonce];
        else _holds[id][nonce].left = rest;
        emit Captured(id, held.payee, amount, nonce);
        if (released != 0) emit Released(id, released, nonce);

        if (!TOKEN.trySafeTransfer(held.payee, amount)) revert TransferFailed(held.payee, amount);
    }

    /// @inheritdoc IMandateEscrow
    function release(Terms calldata terms, uint32 nonce) external nonReentrant {
        bytes32 id = idOf(terms);
        (Mandate storage mandate,) = _known(id);
        HoldState memory held = _holds[id][nonce];

        if (held.left == 0) revert NoSuchHold(id, nonce);
        if (block.timestamp >= terms.captureEnd) revert CaptureEndPassed(terms.captureEnd, block.timestamp);
        if (block.timestamp < held.captureBy && !_isPayeeOrSubmitter(terms, held.payee)) {
            revert NotYetReleasable(msg.sender, held.captureBy, block.timestamp);
        }

        mandate.held -= held.left;
        mandate.remaining += held.left;
        delete _holds[id][nonce];
        emit Released(id, held.left, nonce);
    }

    /// @dev A guardian of zero, which opens payments and holds to everybody, leaves these to the payee alone.
    function _isPayeeOrSubmitter(Terms calldata terms, address payee) private view returns (bool) {
        return msg.sender == payee || (terms.guardian != address(0) && _submitters[terms.guardian][msg.sender]);
    }

    // ---------------------------------------------------------------- checks

    /// @dev Whether the mandate pays at all: what all rows of a group share.
    function _checkMandate(Terms calldata terms, Mandate memory mandate, address submitter)
        private
        view
        returns (Reason)
    {
        if (mandate.status == Status.None) return Reason.UnknownMandate;
        if (mandate.status == Status.Ended) return Reason.Ended;
        if (terms.guardian != address(0) && !_submitters[terms.guardian][submitter]) return Reason.NotSubmitter;
        if (block.timestamp < terms.start) return Reason.NotStarted;
        if (block.timestamp >= terms.expiry) return Reason.Expired;
        return Reason.None;
    }

    /// @dev Whether a mandate that pays makes this payment.
    function _checkPayment(
        bytes32 domain,
        bytes32 id,
        Terms calldata terms,
        Mandate memory mandate,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature
    ) private view returns (Reason) {
        Reason reason = _checkCommitment(terms, mandate, _commitment(payment), proof);
        if (reason != Reason.None) return reason;

        bytes32 digest = Digests.ofSpend(domain, id, payment);
        bool signed = Signatures.isValid(terms.agent, digest, payment.r, payment.vs, signature);
        return signed ? Reason.None : Reason.BadSignature;
    }

    /// @dev Whether a mandate that pays makes this hold.
    function _checkHold(
        bytes32 domain,
        bytes32 id,
        Terms calldata terms,
        Mandate memory mandate,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature
    ) private view returns (Reason) {
        if (block.timestamp >= hold_.captureBy) return Reason.CaptureByPassed;
        if (hold_.captureBy > terms.captureEnd) return Reason.CaptureByTooLate;

        Reason reason = _checkCommitment(terms, mandate, _commitment(hold_), proof);
        if (reason != Reason.None) return reason;

        bytes32 digest = Digests.ofHold(domain, id, hold_);
        bool signed = Signatures.isValid(terms.agent, digest, hold_.r, hold_.vs, signature);
        return signed ? Reason.None : Reason.BadSignature;
    }

    /// @dev What payments and holds are both asked before their signature; cheap questions before dear ones.
    function _checkCommitment(
        Terms calldata terms,
        Mandate memory mandate,
        Commitment calldata commitment,
        bytes32[] calldata proof
    ) private view returns (Reason) {
        address payee = commitment.payee;
        uint64 amount = commitment.amount;
        if (block.timestamp >= commitment.deadline) return Reason.DeadlinePassed;
        if (amount == 0) return Reason.AmountZero;
        if (payee == address(0) || payee == address(this) || payee == address(TOKEN)) return Reason.BadPayee;
        if (terms.payees != 0 && !Payees.allows(terms.payees, payee, proof)) return Reason.PayeeNotAllowed;
        if (terms.perPayment != 0 && amount > terms.perPayment) return Reason.AbovePerPayment;
        if (amount > mandate.remaining) return Reason.InsufficientBudget;
        return mandate.check(commitment.nonce);
    }

    /// @dev Takes a payment that passed into the mandate.
    function _commit(Mandate memory mandate, Payment calldata payment) private pure {
        mandate.remaining -= payment.amount;
        mandate.use(payment.nonce);
    }

    // ---------------------------------------------------------------- end

    /// @inheritdoc IMandateEscrow
    function revoke(Terms calldata terms) external nonReentrant {
        if (msg.sender != terms.operator && msg.sender != terms.agent) {
            revert NotOperatorOrAgent(msg.sender, terms.operator, terms.agent);
        }
        bytes32 id = idOf(terms);
        (Mandate storage mandate, Status status) = _known(id);
        if (status == Status.Ended) revert AlreadyEnded(id);

        emit Revoked(id, msg.sender);
        _end(id, mandate, terms);
    }

    /// @inheritdoc IMandateEscrow
    function sweep(Terms calldata terms) external nonReentrant returns (uint256 amount) {
        bytes32 id = idOf(terms);
        (Mandate storage mandate, Status status) = _known(id);
        if (status == Status.Open && block.timestamp < terms.expiry) revert NotEnded(id, terms.expiry);

        bool returned;
        (amount, returned) = _end(id, mandate, terms);
        if (amount == 0) revert NothingToSweep(id);
        if (!returned) revert TransferFailed(terms.operator, amount);
    }

    /// @dev Ends the mandate and returns what is not held; from captureEnd on, what is held as well. If the token refuses,
    /// the money stays for a sweep.
    /// @return amount What there was to return
    /// @return returned Whether it went back
    function _end(bytes32 id, Mandate storage mandate, Terms calldata terms)
        private
        returns (uint64 amount, bool returned)
    {
        uint64 fromRemaining = mandate.remaining;
        uint64 fromHeld = block.timestamp < terms.captureEnd ? 0 : mandate.held;
        mandate.remaining = 0;
        mandate.status = Status.Ended;
        if (fromHeld != 0) mandate.held = 0;
        amount = fromRemaining + fromHeld;
        if (amount == 0) return (0, false);

        returned = TOKEN.trySafeTransfer(terms.operator, amount);
        if (returned) {
            emit Returned(id, terms.operator, fromRemaining, fromHeld);
        } else {
            mandate.remaining = fromRemaining;
            if (fromHeld != 0) mandate.held = fromHeld;
        }
    }

    function _known(bytes32 id) private view returns (Mandate storage mandate, Status status) {
        mandate = _mandates[id];
        status = mandate.status;
        if (status == Status.None) revert UnknownMandate(id);
    }

    // ---------------------------------------------------------------- guardian

    /// @inheritdoc IMandateEscrow
    function setSubmitter(address submitter, bool allowed) external nonReentrant {
        _submitters[msg.sender][submitter] = allowed;
        emit SubmitterSet(msg.sender, submitter, allowed);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IMandateEscrow
    function canSpend(
        Terms calldata terms,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason reason) {
        bytes32 id = idOf(terms);
        Mandate memory mandate = _mandates[id];

        reason = _checkMandate(terms, mandate, submitter);
        if (reason == Reason.None) {
            reason = _checkPayment(_domain(), id, terms, mandate, payment, proof, signature);
        }
    }

    /// @inheritdoc IMandateEscrow
    function canHold(
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason reason) {
        bytes32 id = idOf(terms);
        Mandate memory mandate = _mandates[id];

        reason = _checkMandate(terms, mandate, submitter);
        if (reason == Reason.None) {
            reason = _checkHold(_domain(), id, terms, mandate, hold_, proof, signature);
        }
    }

    /// @inheritdoc IMandateEscrow
    function holdOf(bytes32 mandate, uint32 nonce) external view returns (HoldState memory) {
        return _holds[mandate][nonce];
    }

    /// @inheritdoc IMandateEscrow
    function mandateOf(bytes32 mandate) external view returns (Mandate memory) {
        return _mandates[mandate];
    }

    /// @inheritdoc IMandateEscrow
    function idOf(Terms calldata terms) public view returns (bytes32) {
        return Digests.ofTerms(DEPLOYMENT_DOMAIN, terms);
    }

    /// @inheritdoc IMandateEscrow
    function isSubmitter(address guardian, address submitter) external view returns (bool) {
        return _submitters[guardian][submitter];
    }

    /// @inheritdoc IMandateEscrow
    function token() external view returns (address) {
        return address(TOKEN);
    }

    /// @inheritdoc IMandateEscrow
    function domainSeparator() external view returns (bytes32) {
        return _domain();
    }

    // ---------------------------------------------------------------- calldata

    /// @dev What a payment begins with.
    function _commitment(Payment calldata payment) private pure returns (Commitment calldata commitment) {
        assembly ("memory-safe") {
            commitment := payment
        }
    }

    /// @dev What a hold begins with.
    function _commitment(Hold calldata hold_) private pure returns (Commitment calldata commitment) {
        assembly ("memory-safe") {
            commitment := hold_
        }
    }

    function _noProof() private pure returns (bytes32[] calldata proof) {
        assembly ("memory-safe") {
            proof.offset := 0
            proof.length := 0
        }
    }

    function _noSignature() private pure returns (bytes calldata) {
        return msg.data[:0];
    }
}
