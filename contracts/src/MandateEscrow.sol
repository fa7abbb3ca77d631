// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {MandateChecks} from "./MandateChecks.sol";
import {IMandateEscrow} from "./interfaces/IMandateEscrow.sol";
import {IUSDC} from "./interfaces/IUSDC.sol";
import {Group, Hold, HoldState, Mandate, Payment, Reason, Row, Status, Terms} from "./interfaces/Types.sol";
import {Digests} from "./libraries/Digests.sol";
import {Window} from "./libraries/RollingWindow.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {MandateSlot} from "./libraries/MandateSlot.sol";

/// @title MandateEscrow
/// @notice Spending mandates for agents, over one token. No owner, no upgrade, no fee, and no call whose target a caller
/// chooses, but for the static question to a signer's wallet.
///
/// @dev Invariants, quoted by the tests:
/// I1  The sum of `remaining + held` over all mandates is never above the escrow's token balance.
/// I2  Per mandate: paid + remaining + held + returned + carried − restored = cap. What is captured is paid; what a roll
///     carries leaves one mandate and is part of the cap of another.
/// I3  A nonce pays or holds at most once.
/// I4  A hold ends at most once; captured ≤ held; nothing is captured from captureBy on.
/// I5  Nothing new is spent or held before start, from expiry on, or after the end. Ended stays ended; closed terms never
///     reopen.
/// I6  From captureEnd on the operator gets back everything, with no help from anyone, whoever triggers it, as long as
///     the token pays the escrow's transfers.
/// I7  No submitter or guardian can choose a payee, an amount above the signed one, or a receiver of leftovers.
/// I8  In any interval of `window` seconds at most `windowCap` is newly committed.
/// I9  Every token that leaves has exactly one event with the same amount, or is the sum of a run's.
/// I10 No row of a batch changes the outcome of another, other than by using up the same mandate's budget, window or
///     nonces.
/// I11 Any call at type maxima gives a typed error or a right result, never a wrapped one.
/// I12 The whole state follows from the logs and block times alone.
contract MandateEscrow is MandateChecks, ReentrancyGuardTransient {
    using SafeERC20 for IUSDC;

    /// @dev From expiry to captureEnd, at most. Clearings of cards may take 38 days, and relayers ask for 40; whoever can make
    /// holds can lock what is left for no longer than this after the mandate's expiry.
    uint40 private constant CAPTURE_PERIOD_MAX = 90 days;

    constructor(address token_) MandateChecks(token_) {}

    // ---------------------------------------------------------------- open

    /// @inheritdoc IMandateEscrow
    function open(Terms calldata terms) external nonReentrant returns (bytes32 mandate) {
        if (msg.sender != terms.operator) revert NotOperator(msg.sender, terms.operator);
        mandate = _open(terms);
        _pull(terms.operator, terms.cap);
    }

    /// @inheritdoc IMandateEscrow
    function openWithPermit(Terms calldata terms, uint256 deadline, bytes calldata permit, bytes calldata signature)
        external
        nonReentrant
        returns (bytes32 mandate)
    {
        // An allowance approves no terms, so any other caller needs the operator's signature of them.
        if (msg.sender != terms.operator) _requireSigned(terms, Digests.ofTerms(domainSeparator(), terms), signature);
        mandate = _open(terms);
        // Anyone can use the permit first, so its failure is ignored: the pull fails if there is no allowance.
        try token.permit(terms.operator, address(this), terms.cap, deadline, permit) {} catch {}
        _pull(terms.operator, terms.cap);
    }

    /// @inheritdoc IMandateEscrow
    function openWithAuthorization(
        Terms calldata terms,
        uint256 validAfter,
        uint256 validBefore,
        bytes calldata signature
    ) external nonReentrant returns (bytes32 mandate) {
        mandate = _open(terms);
        uint256 before = token.balanceOf(address(this));
        token.receiveWithAuthorization(
            terms.operator, address(this), terms.cap, validAfter, validBefore, mandate, signature
        );
        _requireGrown(before, terms.cap);
    }

    /// @dev Records the mandate; the caller pulls the cap.
    function _open(Terms calldata terms) private returns (bytes32 id) {
        id = idOf(terms);
        Status status = _mandates[id].status;
        if (status == Status.Ended) revert AlreadyEnded(id);
        if (status == Status.Open) revert AlreadyOpened(id);
        if (terms.operator == address(0)) revert OperatorIsZero();
        if (terms.agent == address(0)) revert AgentIsZero();
        if (terms.cap == 0) revert CapIsZero();
        if (terms.start >= terms.expiry) revert StartNotBeforeExpiry(terms.start, terms.expiry);
        if (terms.expiry > terms.captureEnd) revert ExpiryAfterCaptureEnd(terms.expiry, terms.captureEnd);
        uint40 latest = type(uint32).max; // what a hold's slot can store
        if (terms.expiry < latest - CAPTURE_PERIOD_MAX) latest = terms.expiry + CAPTURE_PERIOD_MAX;
        if (terms.captureEnd > latest) revert CaptureEndTooLate(terms.captureEnd, latest);
        if (terms.expiry <= block.timestamp) revert ExpiryNotInFuture(terms.expiry, block.timestamp);
        if ((terms.window == 0) != (terms.windowCap == 0)) revert WindowIncomplete(terms.window, terms.windowCap);
        if (terms.windowCap > terms.cap) revert WindowCapAboveCap(terms.windowCap, terms.cap);
        if (terms.perPayment > terms.cap) revert PerPaymentAboveCap(terms.perPayment, terms.cap);

        MandateSlot.store(_mandates[id], Mandate(terms.cap, 0, 0, 0, Status.Open));
        emit Opened(id, terms.operator, terms.agent, terms);
    }

    function _pull(address from, uint256 amount) private {
        uint256 before = token.balanceOf(address(this));
        // `from` sent this call, or signed the terms that it pays for.
        // slither-disable-next-line arbitrary-send-erc20
        token.safeTransferFrom(from, address(this), amount);
        _requireGrown(before, amount);
    }

    function _requireGrown(uint256 before, uint256 amount) private view {
        uint256 balance = token.balanceOf(address(this));
        if (balance < before || balance - before != amount) revert TransferDeltaMismatch(amount, before, balance);
    }

    function _requireSigned(Terms calldata terms, bytes32 digest, bytes calldata signature) private view {
        if (!Signatures.isValid(terms.operator, digest, signature)) revert NotSignedByOperator(terms.operator);
    }

    // ---------------------------------------------------------------- pay

    /// @inheritdoc IMandateEscrow
    function spend(Terms calldata terms, Payment calldata payment) external {
        spend(terms, payment, _noProof(), msg.data[:0]);
    }

    /// @inheritdoc IMandateEscrow
    function spend(Terms calldata terms, Payment calldata payment, bytes32[] calldata proof, bytes calldata signature)
        public
        nonReentrant
    {
        Session memory session = _start(terms, msg.sender);
        Reason reason = _validateAndApplySpend(session, terms, payment, proof, signature);
        if (reason != Reason.None) revert Refused(reason);

        _store(session);
        emit Spent(session.id, payment.payee, payment.amount, payment.nonce, payment.ref);
        if (!token.trySafeTransfer(payment.payee, payment.amount)) revert Refused(Reason.TransferFailed);
    }

    /// @inheritdoc IMandateEscrow
    function settle(Group[] calldata groups, bytes32[][] calldata proofs, bytes[] calldata signatures)
        external
        nonReentrant
        returns (uint256 paid)
    {
        Session memory session = _startBatch();
        uint256 rows = 0;
        for (uint256 i = 0; i < groups.length; ++i) {
            (Terms calldata terms, Payment[] calldata payments) = (groups[i].terms, groups[i].payments);
            paid += _settle(session, terms, payments, rows, proofs, signatures);
            rows += payments.length;
        }
        _requireSideArrays(rows, proofs, signatures);
    }

    /// @inheritdoc IMandateEscrow
    function settleTo(address payee, Row[] calldata rows, bytes32[][] calldata proofs, bytes[] calldata signatures)
        external
        nonReentrant
        returns (uint256 paid)
    {
        _requireSideArrays(rows.length, proofs, signatures);
        Session memory session = _startBatch();
        uint256 sum = 0;
        // As many amounts of 64 bits as there are words of calldata, at most.
        unchecked {
            for (uint256 i = 0; i < rows.length; ++i) {
                (Terms calldata terms, Payment calldata payment) = (rows[i].terms, rows[i].payment);
                _load(session, terms, msg.sender);
                Reason reason = payment.payee == payee
                    ? _validateAndApplySpend(session, terms, payment, _proof(proofs, i), _signature(signatures, i))
                    : Reason.BadPayee;
                if (reason != Reason.None) {
                    emit Skipped(session.id, payment.nonce, reason);
                    continue;
                }
                _store(session);
                emit Spent(session.id, payee, payment.amount, payment.nonce, payment.ref);
                (++paid, sum += payment.amount);
            }
        }
        if (paid != 0 && !token.trySafeTransfer(payee, sum)) revert TransferFailed(payee, sum);
    }

    function _requireSideArrays(uint256 rows, bytes32[][] calldata proofs, bytes[] calldata signatures) private pure {
        if ((proofs.length != 0 && proofs.length != rows) || (signatures.length != 0 && signatures.length != rows)) {
            revert BadSideArrays(rows, proofs.length, signatures.length);
        }
    }

    /// @dev Pays the rows of one group, run by run. The mandate is changed in memory, and stored once all runs are through.
    /// @param session Of the batch; the mandate is loaded into it
    /// @param payments Rows of one mandate
    /// @param row Number of its first row in the batch
    /// @param proofs Of all rows of the batch, or empty
    /// @param signatures Of all rows of the batch, or empty
    /// @return paid Number of rows that paid
    function _settle(
        Session memory session,
        Terms calldata terms,
        Payment[] calldata payments,
        uint256 row,
        bytes32[][] calldata proofs,
        bytes[] calldata signatures
    ) private returns (uint256 paid) {
        _load(session, terms, msg.sender);
        if (session.refusal != Reason.None) {
            for (uint256 i = 0; i < payments.length; ++i) {
                emit Skipped(session.id, payments[i].nonce, session.refusal);
            }
            return 0;
        }

        Mandate memory mandate = session.mandate;
        // Counters stay below the length of calldata, and what remains only falls.
        unchecked {
            for (uint256 first = 0; first < payments.length;) {
                (uint64 remaining, uint88 nonceBits, uint32 nonceBase, Window window) =
                    (mandate.remaining, mandate.nonceBits, mandate.nonceBase, session.window);

                (uint256 passed, uint256 end) = _checkRun(session, terms, payments, first, row, proofs, signatures);
                if (passed != 0) {
                    uint256 count = _payRun(session, payments, first, passed, remaining - mandate.remaining);
                    if (count == 0) {
                        // The token refused: as if none of these rows had been checked.
                        (mandate.remaining, mandate.nonceBits, mandate.nonceBase) = (remaining, nonceBits, nonceBase);
                        session.window = window;
                    }
                    paid += count;
                }
                first = end;
            }
        }
        if (paid != 0) _store(session);
    }

    /// @dev Checks consecutive rows with one payee, at most 256, and applies to the session what passes. Skips the others.
    /// @param first The run's first row in the group
    /// @param row Number of the group's first row in the batch
    /// @return passed Bit i: whether row `first + i` passed
    /// @return end The row of the group behind the run
    function _checkRun(
        Session memory session,
        Terms calldata terms,
        Payment[] calldata payments,
        uint256 first,
        uint256 row,
        bytes32[][] calldata proofs,
        bytes[] calldata signatures
    ) private returns (uint256 passed, uint256 end) {
        Payment calldata payment = payments[first];
        address payee = payment.payee;
        // Counters stay below the length of calldata.
        unchecked {
            (row, end) = (row + first, first);
            for (uint256 bit = 1; bit != 0; bit <<= 1) {
                bytes32[] calldata proof = row < proofs.length ? proofs[row] : _noProof();
                bytes calldata signature = row < signatures.length ? signatures[row] : msg.data[:0];
                bytes32 digest = Digests.ofSpend(session.domain, session.id, payment);
                Reason reason = _validateAndApply(session, terms, payment, digest, proof, signature);
                if (reason == Reason.None) passed |= bit;
                else emit Skipped(session.id, payment.nonce, reason);

                (++row, ++end);
                if (end == payments.length) break;
                payment = payments[end];
                if (payment.payee != payee) break;
            }
        }
    }

    /// @dev Pays the rows of a run that passed, by one transfer.
    /// @param first The run's first row in the group
    /// @param passed Bit i: whether row `first + i` passed
    /// @param sum What those amount to
    /// @return paid Their number; zero if the token refuses
    function _payRun(Session memory session, Payment[] calldata payments, uint256 first, uint256 passed, uint256 sum)
        private
        returns (uint256 paid)
    {
        address payee = payments[first].payee;
        bool moved = token.trySafeTransfer(payee, sum);
        unchecked {
            for (uint256 i = first; passed != 0; (++i, passed >>= 1)) {
                if (passed & 1 == 0) continue;
                Payment calldata payment = payments[i];
                if (!moved) {
                    emit Skipped(session.id, payment.nonce, Reason.TransferFailed);
                    continue;
                }
                emit Spent(session.id, payee, payment.amount, payment.nonce, payment.ref);
                ++paid;
            }
        }
    }

    // ---------------------------------------------------------------- hold

    /// @inheritdoc IMandateEscrow
    function hold(Terms calldata terms, Hold calldata hold_) external {
        hold(terms, hold_, _noProof(), msg.data[:0]);
    }

    /// @inheritdoc IMandateEscrow
    function hold(Terms calldata terms, Hold calldata hold_, bytes32[] calldata proof, bytes calldata signature)
        public
        nonReentrant
    {
        Session memory session = _start(terms, msg.sender);
        Reason reason = _validateAndApplyHold(session, terms, hold_, proof, signature);
        if (reason != Reason.None) revert Refused(reason);

        Payment calldata payment = hold_.payment;
        _store(session);
        // The cast loses nothing: captureBy is not after captureEnd, which opening has seen to fit.
        _holds[session.id][payment.nonce] = HoldState(payment.payee, payment.amount, uint32(hold_.captureBy));
        emit Held(session.id, payment.payee, payment.amount, payment.nonce, hold_.captureBy, payment.ref);
    }

    /// @inheritdoc IMandateEscrow
    function capture(Terms calldata terms, uint32 nonce, uint64 expectedHeld, uint64 amount, bool close)
        external
        nonReentrant
    {
        (bytes32 id, Mandate storage mandate,) = _requireExisting(terms);
        HoldState memory held = _holds[id][nonce];
        if (held.left != expectedHeld) revert HoldChanged(id, nonce, expectedHeld, held.left);
        if (held.left == 0) revert NoSuchHold(id, nonce);
        if (!_mayEnd(terms, held)) revert NotPayeeOrSubmitter(msg.sender, held.payee, terms.guardian);
        if (block.timestamp >= held.captureBy) revert CaptureByPassed(held.captureBy, block.timestamp);
        if (amount == 0) revert AmountIsZero();
        if (amount > held.left) revert AmountAboveHeld(amount, held.left);

        uint64 rest = held.left - amount;
        uint64 released = close ? rest : 0;
        (mandate.held, mandate.remaining) = (mandate.held - amount - released, mandate.remaining + released);
        if (rest == released) delete _holds[id][nonce];
        else _holds[id][nonce].left = rest;
        emit Captured(id, held.payee, amount, nonce);
        if (released != 0) emit Released(id, released, nonce);
        if (!token.trySafeTransfer(held.payee, amount)) revert TransferFailed(held.payee, amount);
    }

    /// @inheritdoc IMandateEscrow
    function release(Terms calldata terms, uint32 nonce) external nonReentrant {
        (bytes32 id, Mandate storage mandate,) = _requireExisting(terms);
        HoldState memory held = _holds[id][nonce];
        if (held.left == 0) revert NoSuchHold(id, nonce);
        if (block.timestamp >= terms.captureEnd) revert CaptureEndPassed(terms.captureEnd, block.timestamp);
        if (block.timestamp < held.captureBy && !_mayEnd(terms, held)) {
            revert NotYetReleasable(msg.sender, held.captureBy, block.timestamp);
        }

        (mandate.held, mandate.remaining) = (mandate.held - held.left, mandate.remaining + held.left);
        delete _holds[id][nonce];
        emit Released(id, held.left, nonce);
    }

    /// @dev Whether the caller may capture, or release before captureBy. With a guardian of zero anyone may send payments and
    /// holds, but only the payee may do this.
    function _mayEnd(Terms calldata terms, HoldState memory held) private view returns (bool) {
        return msg.sender == held.payee || (terms.guardian != address(0) && isSubmitter[terms.guardian][msg.sender]);
    }

    // ---------------------------------------------------------------- refund

    /// @inheritdoc IMandateEscrow
    function refund(Terms calldata terms, uint64 amount, bytes32 ref) external nonReentrant {
        (bytes32 id, Mandate storage mandate, Status status) = _requireExisting(terms);
        if (amount == 0) revert AmountIsZero();

        uint64 restored = 0;
        if (terms.refundsRestoreBudget && status == Status.Open && block.timestamp < terms.expiry) {
            restored = uint64(Math.min(amount, terms.cap - mandate.remaining - mandate.held));
            mandate.remaining += restored;
        }
        emit Refunded(id, msg.sender, amount, restored, ref);
        if (restored != 0) _pull(msg.sender, restored);
        if (restored != amount) token.safeTransferFrom(msg.sender, terms.operator, amount - restored);
    }

    // ---------------------------------------------------------------- end

    /// @inheritdoc IMandateEscrow
    function revoke(Terms calldata terms) external nonReentrant {
        if (msg.sender != terms.operator && msg.sender != terms.agent) {
            revert NotOperatorOrAgent(msg.sender, terms.operator, terms.agent);
        }
        _revoke(terms, msg.sender);
    }

    /// @inheritdoc IMandateEscrow
    function revokeWithSignature(Terms calldata terms, bytes calldata signature) external nonReentrant {
        _requireSigned(terms, Digests.ofRevoke(domainSeparator(), idOf(terms)), signature);
        _revoke(terms, terms.operator);
    }

    function _revoke(Terms calldata terms, address by) private {
        bytes32 id = idOf(terms);
        Mandate storage mandate = _mandates[id];
        Status status = mandate.status;
        if (status == Status.Ended) revert AlreadyEnded(id);
        // Terms that nobody opened are the operator's to withdraw, not the agent's. Junk recovers to zero, which signs nothing.
        if (status == Status.None && (by != terms.operator || by == address(0))) revert UnknownMandate(id);
        emit Revoked(id, by);
        _end(id, mandate, terms, terms.operator);
    }

    /// @inheritdoc IMandateEscrow
    function sweep(Terms calldata terms) external nonReentrant returns (uint256 amount) {
        return _sweep(terms, terms.operator);
    }

    /// @inheritdoc IMandateEscrow
    function sweepTo(Terms calldata terms, address recipient, uint40 deadline, bytes calldata signature)
        external
        nonReentrant
        returns (uint256 amount)
    {
        if (block.timestamp >= deadline) revert DeadlinePassed(deadline, block.timestamp);
        if (_isBadPayee(recipient)) revert BadRecipient(recipient);
        if (msg.sender != terms.operator) {
            _requireSigned(terms, Digests.ofSweep(domainSeparator(), idOf(terms), recipient, deadline), signature);
        }
        return _sweep(terms, recipient);
    }

    function _sweep(Terms calldata terms, address to) private returns (uint256 amount) {
        (bytes32 id, Mandate storage mandate, Status status) = _requireExisting(terms);
        if (block.timestamp < terms.expiry && status == Status.Open) revert NotEnded(id, terms.expiry);
        bool returned;
        (amount, returned) = _end(id, mandate, terms, to);
        if (amount == 0) revert NothingToSweep(id);
        if (!returned) revert TransferFailed(to, amount);
    }

    /// @dev Ends the mandate and returns what is not held; from captureEnd on, what is held as well. If the token refuses, the
    /// mandate ends nevertheless, and the money stays for a sweep.
    /// @return amount The amount that could be returned
    /// @return returned Whether the token transferred it
    function _end(bytes32 id, Mandate storage mandate, Terms calldata terms, address to)
        private
        returns (uint64 amount, bool returned)
    {
        uint64 fromRemaining = MandateSlot.end(mandate);
        uint64 fromHeld = block.timestamp < terms.captureEnd ? 0 : mandate.held;
        if (fromHeld != 0) mandate.held = 0;
        unchecked {
            amount = fromRemaining + fromHeld;
        }
        returned = amount != 0 && token.trySafeTransfer(to, amount);
        if (returned) emit Returned(id, to, fromRemaining, fromHeld);
        else (mandate.remaining, mandate.held) = (fromRemaining, mandate.held + fromHeld);
    }

    /// @inheritdoc IMandateEscrow
    function roll(Terms calldata from, Terms calldata to, uint64 maxPull, bytes calldata signature)
        external
        nonReentrant
        returns (bytes32 mandate)
    {
        if (from.operator != to.operator) revert OperatorDiffers(from.operator, to.operator);
        (bytes32 ended, Mandate storage old, Status status) = _requireExisting(from);
        if (status == Status.Ended) revert AlreadyEnded(ended);

        uint64 remaining = MandateSlot.end(old);
        mandate = _open(to);
        if (msg.sender != from.operator) {
            _requireSigned(from, Digests.ofRoll(domainSeparator(), ended, mandate, maxPull), signature);
        }

        uint64 carried = uint64(Math.min(remaining, to.cap));
        emit Rolled(ended, mandate, carried);

        (uint64 pull, uint64 excess) = (to.cap - carried, remaining - carried);
        if (pull > maxPull) revert PullAboveMaximum(pull, maxPull);
        if (pull != 0) _pull(to.operator, pull);
        if (excess != 0) {
            emit Returned(ended, to.operator, excess, 0);
            if (!token.trySafeTransfer(to.operator, excess)) revert TransferFailed(to.operator, excess);
        }
    }

    // ---------------------------------------------------------------- guardian

    /// @inheritdoc IMandateEscrow
    function setSubmitter(address submitter, bool allowed) external nonReentrant {
        isSubmitter[msg.sender][submitter] = allowed;
        emit SubmitterSet(msg.sender, submitter, allowed);
    }
}
