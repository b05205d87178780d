"""Mutations of `accounts/`."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

BY_FILE: dict[str, list[Mutation]] = {
    "accounts/transactions.py": [
        Mutation(
            "P17",
            "deleted rows stay in the write-ahead log",
            "        transaction.on_commit(_truncate_write_ahead_log)",
            "        pass",
        ),
        Mutation(
            "P17",
            "the write-ahead log is emptied only if nobody reads at that moment",
            "time.monotonic() + pause > deadline",
            "True",
        ),
    ],
    "accounts/database_cache.py": [
        Mutation(
            "P13",
            "two processes count the same event once",
            'F("number") + delta',
            "self.get(key, 0, version) + delta",
        ),
        Mutation(
            "P13",
            "limits live in the memory of one process",
            "CacheEntry.objects.filter(key_digest=self._digest(key, version))",
            "CacheEntry.objects.filter(key_digest=self._digest(key, id(DatabaseCache)))",
        ),
    ],
    "accounts/outbox.py": [
        Mutation(
            "",
            "two processes send the same email",
            "_due(lane).select_for_update(skip_locked=True)",
            "_due(lane)",
            tests=("tests/accounts/test_outbox.py",),
        ),
        Mutation(
            "",
            "the email of a process that dies is never sent",
            "due_at=_seconds_from_now(LEASE_SECONDS)",
            "due_at=_seconds_from_now(1e9)",
            tests=("tests/accounts/test_outbox.py",),
        ),
    ],
    "accounts/sign_in/magic_links.py": [
        Mutation(
            "P11",
            "a retried email leaves the earlier token valid",
            "        token_digest=tokens.digest(token),\n        created_at=now,",
            "        created_at=now,",
        ),
    ],
    "accounts/sessions/service.py": [
        Mutation(
            "",
            "a failing session store fails the sign-out",
            "    except SessionStoreUnavailable:\n",
            "    except ZeroDivisionError:\n",
            tests=("tests/accounts/sessions/test_sign_out_store_down.py",),
        ),
        Mutation(
            "P12",
            "signing out only drops the cookie",
            "    auth.logout(request)\n",
            "    request.session.modified = True\n",
        ),
    ],
    "accounts/querysets.py": [
        Mutation(
            "P11",
            "links can be used twice",
            "self.filter(used_at=None, expires_at__gt=timezone.now())",
            "self.filter(expires_at__gt=timezone.now())",
        ),
        Mutation(
            "P11",
            "links never expire",
            "self.filter(used_at=None, expires_at__gt=timezone.now())",
            "self.filter(used_at=None)",
        ),
    ],
    "accounts/sign_in/throttle.py": [
        Mutation(
            "P13",
            "sign-in requests are not limited",
            'Verdict(usage["should_limit"],',
            "Verdict(False,",
        ),
    ],
    "accounts/tokens.py": [
        Mutation(
            "P7",
            "the token is shown for good",
            '    return f"{prefix}{token[len(prefix) : len(prefix) + 4]}…"',
            "    return token",
        ),
        Mutation(
            "P9",
            "tokens are stored in plain text",
            "    return hashlib.sha256(token.encode()).digest()",
            "    return token.encode()",
        ),
        Mutation(
            "P11",
            "links are stored in plain text",
            "    return hashlib.sha256(token.encode()).digest()",
            "    return token.encode()",
        ),
    ],
    "accounts/users.py": [
        Mutation(
            "P17",
            "deleting an account keeps its sealed keys",
            "        secure_delete_on_commit()\n",
            "",
        ),
    ],
    "accounts/quotas.py": [
        Mutation("P23", "quotas are not kept", "if held.count() >= quota:", "if False:"),
    ],
    "accounts/verify_audit.py": [
        Mutation("P24", "a changed event is not found", 'if content != event["content_hash"]:', "if False:"),
        Mutation("P24", "a changed link is not found", 'if link != event["hash"]:', "if False:"),
        Mutation(
            "P24",
            "a missing event is not found",
            "if type(found) is not int or found != number:",
            "if type(found) is not int:",
        ),
        Mutation(
            "P24",
            "an event that does not continue the one before it is not found",
            'if event["previous_hash"] != self._last_hash:',
            "if False:",
        ),
        Mutation("P24", "a tail that was cut off is not found", "if checkpoint.size > self._last:", "if False:"),
        Mutation(
            "P24",
            "a chain that was computed anew is not found",
            "if found is not None and found != checkpoint.hash:",
            "if False:",
        ),
        Mutation("P24", "a file without a checkpoint passes", "        if not self._checkpoints:", "        if False:"),
        Mutation("P24", "a checkpoint of earlier events is enough", "if self.signed <= self._since:", "if False:"),
    ],
    "accounts/audit_chain.py": [
        Mutation(
            "P24", "a forged checkpoint passes", 'if not verify(signature[4:], found["text"].encode()):', "if False:"
        ),
    ],
    "accounts/audit_models.py": [
        Mutation(
            "P24",
            "a crash leaves an event without its link",
            "with transaction.atomic():  # holds",
            "if True:  # holds",
        ),
    ],
    "accounts/migrations/0009_audit_links.py": [
        Mutation(
            "P24",
            "two servers write the same link",
            "PERFORM pg_advisory_xact_lock(hashtext('accounts_auditlink'));",
            "",
        ),
        Mutation(
            "P24",
            "the chain is locked before foreign keys are checked",
            "FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_last();",
            "FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_chain();",
        ),
    ],
    "accounts/migrations/0010_audit_refuses_unreadable.py": [
        Mutation("P24", "one event ends all verification", "NEW.ip <> host(NEW.ip)::inet", "false"),
    ],
}
