// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IMandateEscrow} from "./IMandateEscrow.sol";
import {IUSDC} from "./IUSDC.sol";
import {Terms} from "./Types.sol";

/// @title IMandatePurse
/// @notice A small float of one mandate, for payees who charge by EIP-3009 (x402 `exact`). The mandate pays the purse like any
/// payee. From there money leaves in three ways only: to a payee, for whom the agent and a submitter of the guardian signed;
/// back to the mandate; or to the operator, where everything goes once the mandate is over.
///
/// @dev A purse has no storage, no owner and no initializer. Its code holds all terms of its mandate but `payees`, so that
/// `payees` can name its address; each call brings the root. With a wrong root the terms are those of no mandate.
///
/// Its balance is its limit: it has no books, and two authorizations may promise the same money. Whoever signs for the
/// guardian must not promise more than the purse has. What leaves is told by the token's `Transfer` and `AuthorizationUsed`,
/// and by the escrow's `Refunded`; the purse has no events of its own.
///
/// The signature of a payment is, without gaps,
///
/// | bytes   | holds                                                                                        |
/// | ------- | -------------------------------------------------------------------------------------------- |
/// | 0–159   | `to`, `value`, `validAfter`, `validBefore`, `nonce`: five words, as EIP-3009 hashes them     |
/// | 160–223 | r, vs of the agent (ERC-2098) over the token's digest                                        |
/// | 224–287 | r, vs of a submitter of the guardian over the same digest; ignored if the guardian is zero   |
/// | 288–319 | `payees` of the terms                                                                        |
/// | 320     | n, the number of words of the payee's proof. From here on all may be missing                 |
/// | 321–    | n words, ignored if `payees` is zero; then what the agent's wallet takes (ERC-1271), if it   |
/// |         | did not sign with a key                                                                      |
interface IMandatePurse is IERC1271 {
    // ---------------------------------------------------------------- errors

    /// @notice Only the operator and the submitters of the guardian can give back; with a guardian of zero there are no
    /// submitters.
    error NotOperatorOrSubmitter(address caller, address operator, address guardian);

    /// @notice Only the operator can name another recipient.
    error NotOperator(address caller, address operator);

    /// @notice The mandate is neither ended nor expired, or the root is not that of its payees.
    error NotEnded(bytes32 mandate, uint40 expiry);

    /// @notice The purse is empty.
    error NothingToSweep();

    /// @notice The recipient is zero, the purse, the escrow or the token.
    error BadRecipient(address recipient);

    // ---------------------------------------------------------------- pay

    /// @notice Whether the token may pay a payee out of this purse (ERC-1271). It may if the digest is the token's, of
    /// a `TransferWithAuthorization` from here and of nothing else; the mandate is open, and `start <= now < expiry`;
    /// the value is neither zero nor above `perPayment`; the payee is in `payees`, and neither zero, the purse, the escrow nor
    /// the token; the agent signed; and, if the mandate has a guardian, one of its submitters did, too.
    /// @dev Anything else is answered with 0xffffffff, whatever the bytes are. Times of the authorization, its nonce and
    /// the balance are the token's to check. An agent's wallet may use 300,000 gas; only if there is too little
    /// for that, the call reverts `GasTooLow`, so that a good signature never looks bad.
    /// @param digest What the token asks for
    /// @param signature As in the table above
    /// @return magic 0x1626ba7e if so, else 0xffffffff
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4 magic);

    // ---------------------------------------------------------------- give back

    /// @notice Gives an amount back by the escrow's `refund`: to the mandate's budget, up to its cap, and the rest to the
    /// operator; all of it to the operator if the mandate is over or its terms say so. Callable by the operator or a submitter
    /// of the guardian.
    /// @dev Not by the agent: with its key alone, a thief could send the float back and forth at the guardian's expense.
    /// Whoever settles with an authorization that is still out finds less here, so the guardian gives back what none needs.
    /// @param payees `payees` of the terms; with another root the escrow knows no such mandate
    /// @param amount In base units, not zero
    /// @param ref As for the escrow's `refund`
    function giveBack(bytes32 payees, uint64 amount, bytes32 ref) external;

    // ---------------------------------------------------------------- end

    /// @notice Sends everything to the operator, once the mandate is ended or expired. Callable by anyone.
    /// @dev From expiry on the root does not matter. Before that, one of terms that their operator withdrew, or ended, will do,
    /// also if they differ from those of an open mandate in their payees alone. Two such mandates would share a purse.
    /// @param payees `payees` of the terms
    /// @return amount What was sent
    function sweep(bytes32 payees) external returns (uint256 amount);

    /// @notice Like `sweep`, to another recipient: for an operator whom the token refuses. Callable by the operator alone.
    /// @dev The operator's own call is enough, since a token refuses its transfers, not its transactions. So the purse has no
    /// message of its own that could be replayed.
    /// @param payees `payees` of the terms
    /// @param recipient The account to pay; neither zero, the purse, the escrow nor the token
    /// @return amount What was sent
    function sweepTo(bytes32 payees, address recipient) external returns (uint256 amount);

    // ---------------------------------------------------------------- views

    /// @notice The terms of the purse's mandate, if their payees are these.
    /// @param payees The part of the terms that the purse does not hold
    function terms(bytes32 payees) external view returns (Terms memory);

    /// @notice The escrow that holds the mandate.
    function escrow() external view returns (IMandateEscrow);

    /// @notice The escrow's token.
    function token() external view returns (IUSDC);
}
