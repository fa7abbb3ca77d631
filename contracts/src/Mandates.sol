// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IMandateEscrow} from "./interfaces/IMandateEscrow.sol";
import {IUSDC} from "./interfaces/IUSDC.sol";
import {Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "./interfaces/Types.sol";
import {Digests} from "./libraries/Digests.sol";
import {NonceWindow} from "./libraries/NonceWindow.sol";
import {Payees} from "./libraries/Payees.sol";
import {RollingWindow} from "./libraries/RollingWindow.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Slots} from "./libraries/Slots.sol";

/// @title Mandates
/// @notice What the escrow knows of mandates, and what it asks before anything leaves them. Verbs and views ask the same
/// functions in the same order.
abstract contract Mandates is IMandateEscrow, EIP712 {
    using NonceWindow for Mandate;

    /// @dev A working copy of a mandate: asked and changed here, and stored once all is well.
    struct Draft {
        bytes32 id;
        Mandate mandate;
        uint256 window;
        Reason refusal;
        bytes32 domain;
        address agent;
        uint64 perPayment; // the type's maximum if the terms have none
        bool windowed;
    }

    /// @dev Ids of mandates keep the chain id of deployment, so that their money stays within reach after a fork. Messages
    /// are checked under the current one, so that none is valid on both chains.
    bytes32 private immutable DEPLOYMENT_DOMAIN = _domainSeparatorV4();

    /// @inheritdoc IMandateEscrow
    IUSDC public immutable token;

    // What is written by verbs alone looks to Slither as if nobody ever did.
    // slither-disable-start uninitialized-state

    /// @inheritdoc IMandateEscrow
    mapping(address guardian => mapping(address submitter => bool)) public isSubmitter;

    mapping(bytes32 mandate => Mandate) internal _mandates;
    mapping(bytes32 mandate => uint256) internal _windows;
    mapping(bytes32 mandate => mapping(uint32 nonce => HoldState)) internal _holds;

    // slither-disable-end uninitialized-state

    constructor(address token_) EIP712("MandateEscrow", "1") {
        if (token_.code.length == 0) revert TokenWithoutCode(token_);
        token = IUSDC(token_);
    }

    // ---------------------------------------------------------------- drafts

    /// @dev With what all its payments share: whether the mandate pays at all, if `submitter` sends them.
    function _draft(Terms calldata terms, address submitter) internal view returns (Draft memory draft) {
        (draft.id, draft.domain) = (idOf(terms), domainSeparator());
        (draft.agent, draft.windowed) = (terms.agent, terms.window != 0);
        draft.perPayment = terms.perPayment == 0 ? type(uint64).max : terms.perPayment;
        draft.mandate = _mandates[draft.id];
        if (draft.windowed) draft.window = _windows[draft.id];

        (address guardian, Status status) = (terms.guardian, draft.mandate.status);
        if (status == Status.None) draft.refusal = Reason.UnknownMandate;
        else if (status == Status.Ended) draft.refusal = Reason.Ended;
        else if (guardian != address(0) && !isSubmitter[guardian][submitter]) draft.refusal = Reason.NotSubmitter;
        else if (block.timestamp < terms.start) draft.refusal = Reason.NotStarted;
        else if (block.timestamp >= terms.expiry) draft.refusal = Reason.Expired;
    }

    function _store(Draft memory draft) internal {
        Slots.write(_mandates[draft.id], draft.mandate);
        if (draft.windowed) _windows[draft.id] = draft.window;
    }

    /// @dev Takes a payment into the draft if it passes, and says why if not.
    function _takeSpend(
        Draft memory draft,
        Terms calldata terms,
        Payment calldata payment,
        bytes32[] calldata proof,
        bytes calldata signature
    ) internal view returns (Reason) {
        if (draft.refusal != Reason.None) return draft.refusal;
        bytes32 digest = Digests.ofSpend(draft.domain, draft.id, payment);
        return _take(draft, terms, payment, digest, proof, signature);
    }

    /// @dev Takes a hold into the draft if it passes, and says why if not.
    function _takeHold(
        Draft memory draft,
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature
    ) internal view returns (Reason reason) {
        if (draft.refusal != Reason.None) return draft.refusal;
        if (block.timestamp >= hold_.captureBy) return Reason.CaptureByPassed;
        if (hold_.captureBy > terms.captureEnd) return Reason.CaptureByTooLate;
        bytes32 digest = Digests.ofHold(draft.domain, draft.id, hold_);
        reason = _take(draft, terms, hold_.payment, digest, proof, signature);
        if (reason == Reason.None) draft.mandate.held += hold_.payment.amount;
    }

    /// @dev What payments and holds are both asked, once the draft has no refusal. Cheap questions come before dear ones.
    /// @param digest What the agent must have signed
    function _take(
        Draft memory draft,
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
        if (terms.payees != 0 && !Payees.allows(terms.payees, payee, proof)) return Reason.PayeeNotAllowed;
        if (amount > draft.perPayment) return Reason.AbovePerPayment;
        if (amount > draft.mandate.remaining) return Reason.InsufficientBudget;
        reason = draft.mandate.check(nonce);
        if (reason != Reason.None) return reason;
        uint256 window = 0;
        if (draft.windowed) {
            window = RollingWindow.add(draft.window, terms, amount);
            if (window == 0) return Reason.WindowExceeded;
        }
        if (!Signatures.isValid(draft.agent, digest, payment.r, payment.vs, signature)) return Reason.BadSignature;

        unchecked {
            draft.mandate.remaining -= amount;
        }
        draft.mandate.use(nonce);
        draft.window = window;
    }

    function _isBadPayee(address payee) internal view returns (bool) {
        return payee == address(0) || payee == address(this) || payee == address(token);
    }

    /// @dev The books of a mandate that was opened.
    function _known(Terms calldata terms) internal view returns (bytes32 id, Mandate storage mandate, Status status) {
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
        return _takeSpend(_draft(terms, submitter), terms, payment, proof, signature);
    }

    /// @inheritdoc IMandateEscrow
    function canHold(
        Terms calldata terms,
        Hold calldata hold_,
        bytes32[] calldata proof,
        bytes calldata signature,
        address submitter
    ) external view returns (Reason) {
        return _takeHold(_draft(terms, submitter), terms, hold_, proof, signature);
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

    function _noProof() internal pure returns (bytes32[] calldata proof) {
        assembly ("memory-safe") {
            proof.length := 0
        }
    }
}
