// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenTakingAFee} from "../../mocks/HostileTokens.sol";
import {Wallet} from "../../mocks/Wallets.sol";

contract OpenWithAuthorizationTest is EscrowTest {
    uint256 private constant VALID_AFTER = NOW - 1;
    uint256 private constant VALID_BEFORE = NOW + 1 hours;

    function setUp() public override {
        super.setUp();
        usdc.mint(operator, CAP);
    }

    /// @dev The operator's EIP-3009 signature that funds and approves the terms.
    function _authorize(Terms memory terms) private view returns (bytes memory) {
        return _authorize(terms, VALID_AFTER, VALID_BEFORE);
    }

    function _authorize(Terms memory terms, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                terms.operator,
                escrow,
                terms.cap,
                validAfter,
                validBefore,
                _idOf(terms)
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(operatorKey, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
        return abi.encodePacked(r, s, v);
    }

    function _openAs(address sender, Terms memory terms, bytes memory signature) private returns (bytes32) {
        vm.prank(sender);
        return escrow.openWithAuthorization(terms, VALID_AFTER, VALID_BEFORE, signature);
    }

    function test_succeeds_whoeverSendsIt(address sender) public {
        Terms memory terms = _terms();
        bytes32 id = _openAs(sender, terms, _authorize(terms));

        assertEq(id, _idOf(terms));
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), CAP);
        assertEq(usdc.balanceOf(operator), 0);
        assertTrue(usdc.authorizationState(operator, id));
    }

    function test_emitsExpectedEvents() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Opened(_idOf(terms), operator, agent, terms);
        _openAs(stranger, terms, signature);
    }

    function test_succeeds_forAnOperatorWithAWallet() public {
        Terms memory terms = _terms();
        terms.operator = address(new Wallet(operator));
        usdc.mint(terms.operator, CAP);
        _openAs(stranger, terms, _authorize(terms));
        assertEq(usdc.balanceOf(terms.operator), 0);
    }

    /// @dev The token's rule: an account with code must answer ERC-1271.
    function test_reverts_whenTheOperatorHasCodeThatDoesNotAnswer() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        vm.etch(operator, hex"00");
        vm.expectRevert("FiatTokenV2: invalid signature");
        _openAs(stranger, terms, signature);
    }

    /// @dev I7: there is nothing else that a front-runner could open with the signature, however sound, to the last field.
    function test_reverts_whenAnyFieldOfTheTermsIsChanged(uint256 field, uint256 value) public {
        Terms memory terms = _terms();
        (terms.perPayment, terms.windowCap, terms.window) = (CAP / 4, CAP / 2, 1 days);
        bytes memory signature = _authorize(terms);
        field = bound(field, 0, 13);

        uint256[13] memory words = abi.decode(abi.encode(terms), (uint256[13]));
        if (field == 13) {
            (words[5], words[6]) = (0, 0);
        } else {
            uint256[13] memory least = [uint256(1), 1, 0, CAP / 2, 0, 1, 1, 0, terms.start + 1, terms.expiry, 0, 0, 0];
            uint256[13] memory most = [
                type(uint160).max,
                type(uint160).max,
                type(uint160).max,
                type(uint64).max,
                CAP,
                CAP,
                type(uint32).max,
                terms.expiry - 1,
                terms.captureEnd,
                terms.expiry + 90 days,
                type(uint256).max,
                type(uint256).max,
                1
            ];
            uint256 before = words[field];
            words[field] = bound(value, least[field], most[field]);
            vm.assume(words[field] != before);
        }
        Terms memory changed = abi.decode(abi.encode(words), (Terms));
        if (changed.operator != operator) usdc.mint(changed.operator, CAP);
        else usdc.mint(operator, type(uint64).max);

        vm.expectRevert("FiatTokenV2: invalid signature");
        _openAs(stranger, changed, signature);
        _openAs(stranger, terms, signature);
    }

    /// @dev Whoever came first opened exactly what was wanted.
    function test_reverts_withAlreadyOpened_whenFrontRun() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        bytes32 id = _openAs(stranger, terms, signature);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, id));
        _openAs(operator, terms, signature);
    }

    /// @dev The authorization does not open the terms a second time, nor pay for them after an opening by allowance.
    function test_reverts_whenOpenedByAllowanceBefore() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        bytes32 id = _open(terms);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, id));
        _openAs(stranger, terms, signature);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    /// @dev Only the escrow can use it, and only by opening.
    function test_reverts_whenTheAuthorizationIsTakenToTheToken() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        bytes32 id = _idOf(terms);
        vm.expectRevert("FiatTokenV2: caller must be the payee");
        vm.prank(stranger);
        usdc.receiveWithAuthorization(operator, address(escrow), CAP, VALID_AFTER, VALID_BEFORE, id, signature);
        vm.expectRevert("FiatTokenV2: invalid signature");
        usdc.transferWithAuthorization(operator, address(escrow), CAP, VALID_AFTER, VALID_BEFORE, id, signature);
    }

    /// @dev An operator who thinks better of it withdraws the message at the token.
    function test_reverts_onceTheOperatorCanceledIt() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        bytes32 structHash = keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), operator, _idOf(terms)));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(operatorKey, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
        usdc.cancelAuthorization(operator, _idOf(terms), v, r, s);
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        _openAs(stranger, terms, signature);
    }

    function test_reverts_outsideItsTimes() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        vm.warp(VALID_AFTER);
        vm.expectRevert("FiatTokenV2: authorization is not yet valid");
        _openAs(stranger, terms, signature);

        vm.warp(VALID_BEFORE);
        vm.expectRevert("FiatTokenV2: authorization is expired");
        _openAs(stranger, terms, signature);

        vm.warp(VALID_BEFORE - 1);
        _openAs(stranger, terms, signature);
    }

    function test_reverts_whenTheTimesAreNotAsSigned() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms, VALID_AFTER, VALID_BEFORE + 1);
        vm.expectRevert("FiatTokenV2: invalid signature");
        _openAs(stranger, terms, signature);
    }

    function test_reverts_whenTheTermsAreUnsound() public {
        Terms memory terms = _terms();
        terms.agent = address(0);
        bytes memory signature = _authorize(terms);
        vm.expectRevert(IMandateEscrow.AgentIsZero.selector);
        _openAs(stranger, terms, signature);
    }

    function test_reverts_onAnotherChain() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        vm.chainId(1);
        vm.expectRevert("FiatTokenV2: invalid signature");
        _openAs(stranger, terms, signature);
    }

    function test_reverts_whenTheBalanceDoesNotGrowByTheCap() public {
        Terms memory terms = _terms();
        bytes memory signature = _authorize(terms);
        _upgradeToken(address(new TokenTakingAFee()));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferDeltaMismatch.selector, CAP, 0, CAP - 1));
        _openAs(stranger, terms, signature);
    }
}
