// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IMandateEscrow} from "../interfaces/IMandateEscrow.sol";
import {IMandatePurse} from "../interfaces/IMandatePurse.sol";
import {IUSDC} from "../interfaces/IUSDC.sol";
import {Status, Terms} from "../interfaces/Types.sol";
import {PayeeAllowlist} from "../libraries/PayeeAllowlist.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {PurseTerms} from "./PurseTerms.sol";

/// @title MandatePurse
/// @notice The code that all purses share, and that none of them can change.
///
/// @dev Invariants, quoted by the tests:
/// P1  What leaves a purse goes to a payee whom agent and submitter signed for, to the escrow by its `refund`, or to the
///     operator; after the end, also to whom the operator itself names.
/// P2  A payment is within the mandate: open, in time, not above `perPayment`, to one of `payees`.
/// P3  Any bytes are answered as a signature: with yes or no.
/// P4  Once the mandate is over, everything goes to the operator, with no help from anyone, whoever triggers it, as long as
///     the token pays the purse's transfers.
contract MandatePurse is IMandatePurse {
    using SafeERC20 for IUSDC;

    bytes32 private constant TRANSFER_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    // Where the parts of a signature begin.
    uint256 private constant AGENT = 160;
    uint256 private constant SUBMITTER = 224;
    uint256 private constant PAYEES = 288;
    uint256 private constant PROOF = 320;

    /// @inheritdoc IMandatePurse
    IMandateEscrow public immutable escrow;

    /// @inheritdoc IMandatePurse
    IUSDC public immutable token;

    constructor(IMandateEscrow escrow_) {
        (escrow, token) = (escrow_, escrow_.token());
    }

    // ---------------------------------------------------------------- pay

    /// @inheritdoc IMandatePurse
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return _isValid(digest, signature) ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    function _isValid(bytes32 digest, bytes calldata signature) private view returns (bool) {
        if (signature.length < PROOF || digest != _digestOf(signature[:AGENT])) return false;

        Terms memory terms_ = terms(bytes32(signature[PAYEES:PROOF]));
        (bool whole, bytes32[] calldata proof, bytes calldata wallet) = _tailOf(signature);
        return whole && _isWithin(terms_, signature, proof)
            && escrow.mandateOf(escrow.idOf(terms_)).status == Status.Open
            && _isSigned(terms_, digest, signature, wallet);
    }

    /// @dev The token is asked for its domain each time, so that a change of its name or of the chain id stops no purse.
    /// @param words `to`, `value`, `validAfter`, `validBefore`, `nonce`
    function _digestOf(bytes calldata words) private view returns (bytes32) {
        bytes32 structHash = keccak256(bytes.concat(abi.encode(TRANSFER_TYPEHASH, address(this)), words));
        return MessageHashUtils.toTypedDataHash(IERC20Permit(address(token)).DOMAIN_SEPARATOR(), structHash);
    }

    /// @return whole Whether there are as many words of the proof as the signature says; if not, the rest means nothing
    /// @return proof Of the payee
    /// @return wallet What the agent's wallet takes
    function _tailOf(bytes calldata signature)
        private
        pure
        returns (bool whole, bytes32[] calldata proof, bytes calldata wallet)
    {
        (uint256 length, uint256 end) = (0, PROOF);
        if (signature.length > PROOF) {
            length = uint8(signature[PROOF]);
            end = PROOF + 1 + 32 * length;
        }
        whole = end <= signature.length;
        wallet = signature[whole ? end : signature.length:];
        assembly ("memory-safe") {
            proof.offset := add(add(signature.offset, PROOF), 1)
            proof.length := length
        }
    }

    /// @dev Whether the terms let the payee be paid this, now.
    function _isWithin(Terms memory terms_, bytes calldata signature, bytes32[] calldata proof)
        private
        view
        returns (bool)
    {
        if (bytes12(signature[:12]) != 0) return false;
        (address payee, uint256 value) = (address(bytes20(signature[12:32])), uint256(bytes32(signature[32:64])));
        return block.timestamp >= terms_.start && block.timestamp < terms_.expiry && value != 0
            && (terms_.perPayment == 0 || value <= terms_.perPayment) && !_isBadPayee(payee)
            && (terms_.payees == 0 || PayeeAllowlist.verify(terms_.payees, payee, proof));
    }

    function _isSigned(Terms memory terms_, bytes32 digest, bytes calldata signature, bytes calldata wallet)
        private
        view
        returns (bool)
    {
        if (terms_.guardian != address(0)) {
            (bytes32 r, bytes32 vs) = abi.decode(signature[SUBMITTER:PAYEES], (bytes32, bytes32));
            // Why nobody is recovered does not matter.
            // slither-disable-next-line unused-return
            (address submitter,,) = ECDSA.tryRecover(digest, r, vs);
            // Junk recovers to zero, which a guardian may have allowed.
            if (submitter == address(0) || !escrow.isSubmitter(terms_.guardian, submitter)) return false;
        }
        (bytes32 agentR, bytes32 agentVs) = abi.decode(signature[AGENT:SUBMITTER], (bytes32, bytes32));
        if (Signatures.isByKey(terms_.agent, digest, agentR, agentVs)) return true;
        return wallet.length != 0 && Signatures.isByWallet(terms_.agent, digest, wallet, Signatures.ROW_GAS);
    }

    // ---------------------------------------------------------------- give back

    /// @inheritdoc IMandatePurse
    function giveBack(bytes32 payees, uint64 amount, bytes32 ref) external {
        Terms memory terms_ = terms(payees);
        (address operator, address guardian) = (terms_.operator, terms_.guardian);
        if (msg.sender != operator && (guardian == address(0) || !escrow.isSubmitter(guardian, msg.sender))) {
            revert NotOperatorOrSubmitter(msg.sender, operator, guardian);
        }
        token.forceApprove(address(escrow), amount);
        escrow.refund(terms_, amount, ref);
    }

    // ---------------------------------------------------------------- end

    /// @inheritdoc IMandatePurse
    function sweep(bytes32 payees) external returns (uint256 amount) {
        Terms memory terms_ = terms(payees);
        return _sweep(terms_, terms_.operator);
    }

    /// @inheritdoc IMandatePurse
    function sweepTo(bytes32 payees, address recipient) external returns (uint256 amount) {
        Terms memory terms_ = terms(payees);
        if (msg.sender != terms_.operator) revert NotOperator(msg.sender, terms_.operator);
        if (_isBadPayee(recipient)) revert BadRecipient(recipient);
        return _sweep(terms_, recipient);
    }

    function _sweep(Terms memory terms_, address to) private returns (uint256 amount) {
        if (block.timestamp < terms_.expiry) {
            bytes32 id = escrow.idOf(terms_);
            if (escrow.mandateOf(id).status != Status.Ended) revert NotEnded(id, terms_.expiry);
        }
        amount = token.balanceOf(address(this));
        // Whoever sends the purse something makes a sweep succeed, and it goes to the operator.
        // slither-disable-next-line incorrect-equality
        if (amount == 0) revert NothingToSweep();
        token.safeTransfer(to, amount);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IMandatePurse
    function terms(bytes32 payees) public view returns (Terms memory) {
        return PurseTerms.load(address(this), payees);
    }

    function _isBadPayee(address payee) private view returns (bool) {
        return payee == address(0) || payee == address(this) || payee == address(escrow) || payee == address(token);
    }
}
