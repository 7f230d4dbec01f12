package redisledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// Hold implements billing.Ledger, in one round trip. While Redis is down, it answers
// from what this process knew last, less what it has settled and set aside itself; it
// fails with ErrUnavailable if it never knew the user, or a subscription that no config
// declares, and with ErrUnwritable if the spool could not keep the record.
func (l *Ledger) Hold(ctx context.Context, req *billing.HoldRequest) (billing.Payer, error) {
	if l.closed.Load() {
		return billing.Payer{}, billing.ErrClosed
	}
	var payer billing.Payer
	err := l.askOf(ctx, req.User, func() (err error) {
		payer, err = l.hold(ctx, req)
		return err
	})
	var refusal *billing.Refusal
	if err != nil && !errors.As(err, &refusal) {
		err = fmt.Errorf("setting %s of %q aside: %w", req.Amount, req.User, unavailable(err))
	}
	return payer, err
}

func (l *Ledger) hold(ctx context.Context, req *billing.HoldRequest) (billing.Payer, error) {
	if err := cmp.Or(ctx.Err(), checkRequest(req)); err != nil {
		return billing.Payer{}, err
	}
	if before, isThere := l.holds.find(req.ID); isThere {
		return before.payer, nil
	}
	if err := l.link.Down(); err != nil {
		return l.holdHere(req, err, nil)
	}
	h := l.holds.ask(req)
	keys, args := l.holdArguments(req, h, redislink.Guard{})
	answer, err := l.link.Run(ctx, holdScript, keys, args...)
	switch {
	case isOutage(err):
		return l.holdHere(req, err, h)
	case err != nil:
		l.holds.drop(h)
		return billing.Payer{}, err
	}
	payer, err := l.answerHold(ctx, req, h, answer)
	if err == nil && ctx.Err() != nil {
		l.Release(ctx, req.ID)
		return billing.Payer{}, ctx.Err()
	}
	return payer, err
}

func checkRequest(req *billing.HoldRequest) error {
	switch {
	case req.ID == "":
		return errors.New("the claim has no id")
	case req.Amount < 0 || req.Amount > largestAmount || req.MinAvailable > largestAmount:
		return fmt.Errorf("the claim is out of range, the limits are 0 and %s", largestAmount)
	}
	return nil
}

// HoldIn puts a hold request to Redis in somebody else's round trip, if what that one is for
// is granted (redislink.Guard), so that a request which has to wait in line for its
// slot keeps no money from others meanwhile. Once the batch has travelled, answer
// returns what Hold would; answered is false, and nothing is set aside, if nobody took
// it along or it came to nothing for another reason than money. A request that ends
// without having asked needs Release as any other.
func (l *Ledger) HoldIn(req *billing.HoldRequest) (along roundtrip.Batch, answer func() (payer billing.Payer, answered bool, err error)) {
	none := func() (billing.Payer, bool, error) { return billing.Payer{}, false, nil }
	if _, isThere := l.holds.find(req.ID); isThere || l.closed.Load() || l.link.Down() != nil || checkRequest(req) != nil {
		return nil, none
	}
	kept := *req
	if req.Terms != nil {
		terms := *req.Terms
		kept.Terms = &terms
	}
	came := none
	op := func(pipe redis.Pipeliner, guard redislink.Guard) func() {
		h := l.holds.ask(&kept)
		keys, args := l.holdArguments(&kept, h, guard)
		cmd := holdScript.EvalSha(l.ctx, pipe, keys, args...)
		return func() {
			reply, err := cmd.Result()
			if list, _ := reply.([]any); err != nil || len(list) == 1 { // or it is told why by Hold
				l.holds.drop(h)
				return
			}
			payer, err := l.answerHold(l.ctx, &kept, h, reply)
			came = func() (billing.Payer, bool, error) { return payer, true, err }
		}
	}
	return roundtrip.Batch{redislink.Operation(op)}, func() (billing.Payer, bool, error) { return came() }
}

// holdArguments are hold.lua's.
func (l *Ledger) holdArguments(c *billing.HoldRequest, h *hold, guard redislink.Guard) (keys []string, args []any) {
	user, key, subscription := userBudget(c.User), keyBudget(c.KeyID), subscriptionBudget(c.User, "")
	pays, until, limits := "balance", "", billing.Limits{}
	switch terms := c.Terms; {
	case terms != nil:
		subscription, limits = subscriptionBudget(c.User, terms.Group), terms.Limits
		if pays = "subscription"; terms.Declared {
			pays, until = "declared", formatTime(terms.Until)
		}
	case c.Unlimited:
		pays = "none"
	}
	if guard.Field == "" {
		guard.Key = l.key(user) // which lies in the same slot
	}
	keys = []string{
		guard.Key, l.key(user), l.key(key), l.key(subscription), l.holdsKey(user), l.holdsKey(key), l.holdsKey(subscription),
	}
	args = append(make([]any, 0, 16), guard.Field, h.member(), int64(c.Amount), int64(max(c.MinAvailable, 0)), holdTTL.Milliseconds(), pays, until)
	for _, limit := range limits {
		args = append(args, int64(max(limit, 0)))
	}
	u := l.snapshot.unknown(c)
	h.unknown = sums{h.unknown.user.Plus(u.user), h.unknown.key.Plus(u.key), h.unknown.subscription.Plus(u.subscription)}
	args = append(args, int64(h.unknown.user), int64(h.unknown.key), int64(h.unknown.subscription))
	return keys, append(args, l.bounds.arguments(l.snapshot.now(), l.location)...)
}

// answerHold takes in hold.lua's answer.
func (l *Ledger) answerHold(ctx context.Context, c *billing.HoldRequest, h *hold, answer any) (billing.Payer, error) {
	if list, _ := answer.([]any); len(list) == 1 && list[0] == "unknown user" {
		l.holds.drop(h)
		l.snapshot.forgetUser(c.User)
		return billing.Payer{}, billing.ErrUnknownUser
	}
	did, a, now, err := parseAccount(answer, c)
	if err != nil {
		l.holds.drop(h)
		return billing.Payer{}, err
	}
	l.snapshot.learnTime(now)
	if !l.holds.isOld(h) {
		l.snapshot.learn(c, &a)
	}
	if did == "held" {
		billing, _ := a.judge(c, now, l.location)
		payer := payerOf(billing, &a)
		if l.holds.meet(h, payer, &a, kept) {
			_, _ = l.tell(ctx, endHolds, []hold{*h}) // or it expires
		}
		return payer, nil
	}
	l.holds.drop(h)
	a.holdMore(h.unknown)
	if _, refusal := a.judge(c, now, l.location); refusal != nil {
		return billing.Payer{}, refusal
	}
	return billing.Payer{}, &billing.Refusal{Reason: billing.ReasonBalance, Temporary: true}
}

func payerOf(paidFrom string, a *account) billing.Payer {
	return billing.Payer{Billing: paidFrom, UserNumber: a.user.number}
}

// parseAccount reads what hold.lua gives of the user, the key and the subscription.
func parseAccount(answer any, c *billing.HoldRequest) (did string, a account, now time.Time, err error) {
	r := newReply(answer, 5)
	if r.err != nil {
		return "", a, now, r.err
	}
	did, now = r.text(0), r.micros(4)
	if a.user, _, err = parseUser(r.list[1]); err != nil {
		return did, a, now, err
	}
	if a.key, err = parseLimitedKey(r.list[2]); err != nil {
		return did, a, now, err
	}
	if c.Terms != nil {
		a.subscription, err = parseSubscription(r.list[3])
	}
	return did, a, now, cmp.Or(err, r.err)
}

// holdHere meets a hold request, or does not, by what this process knows; why is why Redis
// does not do it. asked is what Redis may have met, or nil.
func (l *Ledger) holdHere(c *billing.HoldRequest, why error, asked *hold) (billing.Payer, error) {
	if asked != nil && l.holds.drop(asked) { // it was given back meanwhile; what Redis has of it expires
		return billing.Payer{}, why
	}
	if err := l.spool.check(); err != nil {
		return billing.Payer{}, fmt.Errorf("%w: %w; the spool %s: %w", billing.ErrUnwritable, why, l.spool.dir, err)
	}
	l.holds.mu.Lock()
	defer l.holds.mu.Unlock()
	a, isKnown := l.snapshot.account(c)
	if !isKnown {
		return billing.Payer{}, why
	}
	a.holdMore(sumsOf(l.holds.sums, c))
	paidFrom, refusal := a.judge(c, l.snapshot.now(), l.location)
	if refusal != nil {
		return billing.Payer{}, refusal
	}
	h := l.holds.make(c, inDoubt)
	if asked != nil { // should Redis have it, this is the same
		h.number = asked.number
	}
	payer := payerOf(paidFrom, &a)
	l.holds.met(h, payer, &a, inDoubt)
	return payer, nil
}

// Release implements billing.Ledger, in one round trip, or none if nothing is set
// aside. What Redis does not hear of expires.
func (l *Ledger) Release(ctx context.Context, id string) {
	if h := l.holds.end(id); h != nil && !l.closed.Load() && l.link.Down() == nil {
		_, _ = l.tell(ctx, endHolds, []hold{*h})
	}
}
