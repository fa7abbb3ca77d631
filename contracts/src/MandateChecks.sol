// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IMandateEscrow} from "./interfaces/IMandateEscrow.sol";
import {IUSDC} from "./interfaces/IUSDC.sol";
import {Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "./interfaces/Types.sol";
import {Digests} from "./libraries/Digests.sol";
import {NonceWindow} from "./libraries/NonceWindow.sol";
import {PayeeAllowlist} from "./libraries/PayeeAllowlist.sol";
import {RollingWindow, Window} from "./libraries/RollingWindow.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {MandateSlot} from "./libraries/MandateSlot.sol";

/// @title MandateChecks
/// @notice The mandates' state, and the checks before anything leaves them. Calls and views run the same
/// functions in the same order.
abstract contract MandateChecks is IMandateEscrow, EIP712 {
    using NonceWindow for Mandate;

    /// @dev A working copy of a mandate, and what its payments share: checked and changed in memory, and stored once payments
    /// have passed.
    struct Session {
        bytes32 id;
        Mandate mandate;
        Window window;
        Reason refusal;
        bytes32 domain;
        address agent;
        uint64 perPayment; // the type's maximum if the terms have none
        bool windowed;
        uint256 walletGas; // that the agent's wallet may use for each payment
    }

    /// @dev The domain at deployment, of which mandates' ids are made: a later change of the chain id must not change them, or
    /// their money would be out of reach. Messages are checked under the current domain, so that none is valid on both chains
    /// after a fork.
    bytes32 private immutable DEPLOYMENT_DOMAIN;

    /// @inheritdoc IMandateEscrow
    IUSDC public immutable token;

    // Slither does not see the writes in MandateEscrow.
    // slither-disable-start uninitialized-state

    /// @inheritdoc IMandateEscrow
    mapping(address guardian => mapping(address submitter => bool)) public isSubmitter;

    mapping(bytes32 mandate => Mandate) internal _mandates;
    mapping(bytes32 mandate => Window) internal _windows;
    mapping(bytes32 mandate => mapping(uint32 nonce => HoldState)) internal _holds;

    // slither-disable-end uninitialized-state

    constructor(address token_) EIP712("MandateEscrow", "1") {
        // Here, and not where it is declared: the legacy pipeline initializes declarations before any constructor, and so
        // before EIP712 knows its name, chain and address.
        DEPLOYMENT_DOMAIN = _domainSeparatorV4();
        if (token_.code.length == 0) revert TokenWithoutCode(token_);
        uint8 decimals = IUSDC(token_).decimals();
        if (decimals != 6) revert TokenWithoutSixDecimals(token_, decimals);
        token = IUSDC(token_);
    }

    // ---------------------------------------------------------------- sessions

    /// @dev Starts the session of a call that carries one payment or hold.
    function _start(Terms calldata terms, address submitter) internal view returns (Session memory session) {
        (session.domain, session.walletGas) = (domainSeparator(), Signatures.ALL_GAS);
        _load(session, terms, submitter);
    }

    /// @dev Starts the session of a batch. One mandate after the other is loaded into it: a session for each would fill the
    /// memory.
    function _startBatch() internal view returns (Session memory session) {
        (session.domain, session.walletGas) = (domainSeparator(), Signatures.ROW_GAS);
    }

    /// @dev Loads a mandate into a session, and checks what does not depend on the payment. `refusal` says why no payment that
    /// `submitter` sends would pass now.
    function _load(Session memory session, Terms calldata terms, address submitter) internal view {
        (session.id, session.refusal) = (idOf(terms), Reason.None);
        (session.agent, session.windowed) = (terms.agent, terms.window != 0);
        session.perPayment = terms.perPayment == 0 ? type(uint64).max : terms.perPayment;
        session.mandate = _mandates[session.id];
        if (session.windowed) session.window = _windows[session.id];

        (address guardian, Status status) = (terms.guardian, session.mandate.status);
        if (status == Status.None) session.refusal = Reason.UnknownMandate;
        else if (status == Status.Ended) session.refusal = Reason.Ended;
        else if (guardian != address(0) && !isSubmitter[guardian][submitter]) session.refusal = Reason.NotSubmitter;
        else if (block.timestamp < terms.start) session.refusal = Reason.NotStarted;
        else if (block.timestamp >= terms.expiry) session.refusal = Reason.Expired;
    }

    function _store(Session memory session) internal {
        MandateSlot.store(_mandates[session.id], session.mandate);
        if (session.windowed) _windows[session.id] = session.window;
    }

    /// @dev Applies a payment to the session if it passes, and returns why if not.
    function _validateAndApplySpend(
        Session memory session,
        Terms calldata terms,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature
    ) internal view returns (Reason) {
        if (session.refusal != Reason.None) return session.refusal;
        bytes32 digest = Digests.ofSpend(session.domain, session.id, payment);
        return _validateAndApply(session, terms, payment, digest, proof, signature);
    }

    /// @dev Applies a hold to the session if it passes, and returns why if not.
    function _validateAndApplyHold(
        Session memory session,
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature
    ) internal view returns (Reason reason) {
        if (session.refusal != Reason.None) return session.refusal;
        if (block.timestamp >= hold_.captureBy) return Reason.CaptureByPassed;
        if (hold_.captureBy > terms.captureEnd) return Reason.CaptureByTooLate;
        bytes32 digest = Digests.ofHold(session.domain, session.id, hold_);
        reason = _validateAndApply(session, terms, hold_.payment, digest, proof, signature);
        if (reason == Reason.None) session.mandate.held += hold_.payment.amount;
    }

    /// @dev The checks that payments and holds share, in the order of `Reason`. The session must have no refusal. Changes the
    /// session only if all of them pass.
    /// @param digest What the agent must have signed
    /// @param proof Leads from the payee to `terms.payees`
    /// @param signature For the agent's wallet; empty if the agent signed with a key
    function _validateAndApply(
        Session memory session,
        Terms calldata terms,
        Payment calldata payment,
        bytes32 digest,
        bytes32[] calldata proof,
        bytes calldata signature
    ) internal view returns (Reason reason) {
        (address payee, uint64 amount, uint32 nonce) = (payment.payee, payment.amount, payment.nonce);
        if (block.timestamp >= payment.deadline) return Reason.DeadlinePassed;
        if (amount == 0) return Reason.AmountZero;
        if (_isBadPayee(payee)) return Reason.BadPayee;
        if (terms.payees != 0 && !PayeeAllowlist.verify(terms.payees, payee, proof)) return Reason.PayeeNotAllowed;
        if (amount > session.perPayment) return Reason.AbovePerPayment;
        if (amount > session.mandate.remaining) return Reason.InsufficientBudget;
        reason = session.mandate.check(nonce);
        if (reason != Reason.None) return reason;
        Window window = session.window;
        if (session.windowed) {
            bool fits;
            (fits, window) = RollingWindow.add(window, terms, amount);
            if (!fits) return Reason.WindowExceeded;
        }
        if (!_isSigned(session, payment, digest, signature)) return Reason.BadSignature;

        unchecked {
            session.mandate.remaining -= amount;
        }
        session.mandate.use(nonce);
        session.window = window;
    }

    function _isSigned(Session memory session, Payment calldata payment, bytes32 digest, bytes calldata signature)
        private
        view
        returns (bool)
    {
        if (Signatures.isByKey(session.agent, digest, payment.r, payment.vs)) return true;
        return signature.length != 0 && Signatures.isByWallet(session.agent, digest, signature, session.walletGas);
    }

    function _isBadPayee(address payee) internal view returns (bool) {
        return payee == address(0) || payee == address(this) || payee == address(token);
    }

    /// @dev A mandate that was opened or withdrawn; reverts for any other.
    function _requireExisting(Terms calldata terms)
        internal
        view
        returns (bytes32 id, Mandate storage mandate, Status status)
    {
        id = idOf(terms);
        mandate = _mandates[id];
        status = mandate.status;
        if (status == Status.None) revert UnknownMandate(id);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IMandateEscrow
    function canSpend(
        Terms calldata terms,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason) {
        return _validateAndApplySpend(_start(terms, submitter), terms, payment, proof, signature);
    }

    /// @inheritdoc IMandateEscrow
    function canHold(
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason) {
        return _validateAndApplyHold(_start(terms, submitter), terms, hold_, proof, signature);
    }

    /// @inheritdoc IMandateEscrow
    function mandateOf(bytes32 mandate) external view returns (Mandate memory) {
        return _mandates[mandate];
    }

    /// @inheritdoc IMandateEscrow
    function holdOf(bytes32 mandate, uint32 nonce) external view returns (HoldState memory) {
        return _holds[mandate][nonce];
    }

    /// @inheritdoc IMandateEscrow
    function idOf(Terms calldata terms) public view returns (bytes32) {
        return Digests.ofTerms(DEPLOYMENT_DOMAIN, terms);
    }

    /// @inheritdoc IMandateEscrow
    function domainSeparator() public view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // ---------------------------------------------------------------- calldata

    function _proof(bytes32[][] calldata proofs, uint256 row) internal pure returns (bytes32[] calldata) {
        return row < proofs.length ? proofs[row] : _noProof();
    }

    function _signature(bytes[] calldata signatures, uint256 row) internal pure returns (bytes calldata) {
        return row < signatures.length ? signatures[row] : msg.data[:0];
    }

    function _noProof() internal pure returns (bytes32[] calldata proof) {
        assembly ("memory-safe") {
            proof.length := 0
        }
    }
}
