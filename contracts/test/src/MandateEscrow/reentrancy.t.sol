// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Mandate, Payment, Status, Terms} from "../../../src/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReentering, TokenReenteringQuietly} from "../../mocks/HostileTokens.sol";

/// @notice No call of the token leads back into a verb.
contract ReentrancyTest is EscrowTest {
    Terms private terms;
    Terms private unopened;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.guardian = address(0);
        id = _open(terms);
        unopened = _terms();
        unopened.intent = "unopened";
    }

    /// @dev Every verb, as the token would have to call it to do harm.
    function _verbs() private view returns (bytes[] memory verbs) {
        Payment memory payment = _paymentTo(terms, stranger, 5, 1);
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, _rows(payment));
        verbs = new bytes[](8);
        verbs[0] = abi.encodeCall(IMandateEscrow.open, (unopened));
        verbs[1] = abi.encodeCall(IMandateEscrow.openWithAuthorization, (unopened, 0, 0, ""));
        verbs[2] = abi.encodeWithSignature(
            "spend((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),(address,uint64,uint32,uint40,bytes32,bytes32,bytes32))",
            terms,
            payment
        );
        verbs[3] = abi.encodeWithSignature(
            "spend((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),(address,uint64,uint32,uint40,bytes32,bytes32,bytes32),bytes32[],bytes)",
            terms,
            payment,
            new bytes32[](0),
            ""
        );
        verbs[4] = abi.encodeCall(IMandateEscrow.settle, (groups, new bytes32[][](0), new bytes[](0)));
        verbs[5] = abi.encodeCall(IMandateEscrow.revoke, (terms));
        verbs[6] = abi.encodeCall(IMandateEscrow.sweep, (terms));
        verbs[7] = abi.encodeCall(IMandateEscrow.setSubmitter, (stranger, true));
    }

    function test_reverts_whenOpenIsReentered() public {
        _upgradeToken(address(new TokenReentering()));
        bytes[] memory verbs = _verbs();
        _fund(operator, CAP);
        for (uint256 i = 0; i < verbs.length; ++i) {
            TokenReentering(address(usdc)).reenterWith(verbs[i]);
            vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            vm.prank(operator);
            escrow.open(unopened);
        }
    }

    function test_paysOnce_whenPayingIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        uint64 remaining = CAP;
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            _spend(terms, _payment(terms, 5, 10 + 2 * i));
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            _settle(terms, _rows(_payment(terms, 5, 11 + 2 * i)));
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            remaining -= 10;
            assertEq(escrow.mandateOf(id).remaining, remaining);
            assertEq(usdc.balanceOf(address(escrow)), remaining);
        }
        assertEq(usdc.balanceOf(stranger), 0);
    }

    function test_returnsOnce_whenTheEndIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        usdc.mint(address(escrow), CAP);
        bytes[] memory verbs = _verbs();
        uint256 open = vm.snapshotState();
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.prank(operator);
            escrow.revoke(terms);
            _assertReturnedOnce();
            vm.revertToState(open);

            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.warp(terms.expiry);
            escrow.sweep(terms);
            _assertReturnedOnce();
            vm.revertToState(open);
        }
    }

    function _assertReturnedOnce() private view {
        assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
        assertEq(usdc.balanceOf(operator), CAP);
        assertEq(usdc.balanceOf(address(escrow)), CAP);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
    }
}
