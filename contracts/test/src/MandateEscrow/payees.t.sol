// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Payment, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice A mandate that names its payees pays no other. Trees of other sizes are in Vectors.t.sol.
contract PayeesTest is EscrowTest {
    string private constant TERMS =
        "(address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool)";
    string private constant PAYMENT = "(address,uint64,uint32,uint40,bytes32,bytes32,bytes32)";

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

    /// @dev A proof that is not there has no words: not even those that any call starts with.
    function test_reverts_withoutAProof_whateverTheCallStartsWith() public {
        bytes4 spends = bytes4(keccak256(abi.encodePacked("spend(", TERMS, ",", PAYMENT, ")")));
        bytes4 holds = bytes4(keccak256(abi.encodePacked("hold(", TERMS, ",(", PAYMENT, ",uint40))")));
        // The operator stands first, behind the selector; in a batch it is an offset.
        bytes28 first = bytes28(bytes32(uint256(uint160(operator))));

        Terms memory mine = _termsFor(bytes32(bytes.concat(spends, first)));
        vm.expectCall(address(escrow), bytes.concat(spends, first));
        _assertRefused(mine, _payment(mine, 5, 0), Reason.PayeeNotAllowed);
        mine = _termsFor(bytes32(bytes.concat(holds, first)));
        vm.expectCall(address(escrow), bytes.concat(holds, first));
        _assertRefused(mine, _holdOf(mine, 5, 0), Reason.PayeeNotAllowed);
        mine = _termsFor(bytes32(IMandateEscrow.settle.selector));
        assertEq(_settle(mine, _rows(_payment(mine, 5, 0))), 0);
    }

    /// @dev Opened for the payee and one sibling.
    function _termsFor(bytes32 sibling) private returns (Terms memory opened) {
        bytes32 leaf = _leaf(payee);
        opened = _terms();
        opened.payees = leaf < sibling ? keccak256(bytes.concat(leaf, sibling)) : keccak256(bytes.concat(sibling, leaf));
        _open(opened);
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
