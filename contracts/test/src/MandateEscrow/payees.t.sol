// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Payment, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice A mandate that names its payees pays no other. Trees of other sizes are in Vectors.t.sol.
contract PayeesTest is EscrowTest {
    address private other = makeAddr("other payee");
    Terms private terms;
    bytes32[] private proof;

    function setUp() public override {
        super.setUp();
        (bytes32 a, bytes32 b) = (_leaf(payee), _leaf(other));
        terms = _terms();
        terms.payees = a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
        _open(terms);
        proof = [b];
    }

    function _leaf(address account) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account))));
    }

    function _assertWithProof(Payment memory payment, bytes32[] memory with, Reason reason) private {
        assertEq(escrow.canSpend(terms, payment, with, "", submitter), reason);
        if (reason != Reason.None) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        }
        vm.prank(submitter);
        escrow.spend(terms, payment, with, "");
    }

    function test_succeeds_withAProof() public {
        _assertWithProof(_payment(terms, 5, 0), proof, Reason.None);
        assertEq(usdc.balanceOf(payee), 5);
    }

    function test_reverts_withoutAProof() public {
        _assertRefused(terms, _payment(terms, 5, 0), Reason.PayeeNotAllowed);
        _assertWithProof(_payment(terms, 5, 0), new bytes32[](0), Reason.PayeeNotAllowed);
    }

    /// @dev Behind a call's data stand zeros. A proof that is not there has none of them.
    function test_reverts_withoutAProof_beforeTheZerosBehindTheCall() public {
        Terms memory mine = _terms();
        mine.payees = keccak256(bytes.concat(bytes32(0), _leaf(payee)));
        _open(mine);
        _assertRefused(mine, _payment(mine, 5, 0), Reason.PayeeNotAllowed);
        _assertRefused(mine, _holdOf(mine, 5, 0), Reason.PayeeNotAllowed);
        assertEq(_settle(mine, _rows(_payment(mine, 5, 0))), 0);

        bytes32[] memory zero = new bytes32[](1);
        assertEq(escrow.canSpend(mine, _payment(mine, 5, 0), zero, "", submitter), Reason.None);
    }

    function test_reverts_forAnyOtherPayee(address to, bytes32[] memory with) public {
        vm.assume(to != payee && to != other);
        vm.assume(to != address(0) && to != address(escrow) && to != address(usdc));
        _assertWithProof(_paymentTo(terms, to, 5, 0), proof, Reason.PayeeNotAllowed);
        _assertWithProof(_paymentTo(terms, to, 5, 0), with, Reason.PayeeNotAllowed);
    }

    function test_ignoresTheProof_whenAnyPayeeIsAllowed(bytes32[] memory with) public {
        Terms memory open = _terms();
        _open(open);
        Payment memory payment = _payment(open, 5, 0);
        vm.prank(submitter);
        escrow.spend(open, payment, with, "");
        assertEq(usdc.balanceOf(payee), 5);
    }
}
