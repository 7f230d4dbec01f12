package ledgertest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sub2api/caddy-sub2api/billing"
)

// history is a random one of a ledger and a plain one, which must give the same
// answers.
type history struct {
	*testing.T
	world
	random *rand.Rand
	l      billing.Ledger
	plain  *memory
	count  int
	// records are those settled, in order, and not pruned.
	records []*billing.Record
	// credited and charged are what each name was, by what was done.
	credited, charged map[string]billing.USD
}

func anyHistory(t *testing.T, w world) {
	h := &history{
		T: t, world: w, random: source(t), l: w.open(t), plain: newMemoryStore(time.UTC, w.clock).open(),
		credited: map[string]billing.USD{}, charged: map[string]billing.USD{},
	}
	defer func() { close1(t, h.l) }()
	steps := []func(){
		h.hold, h.hold, h.hold, h.hold, h.settleHeld, h.settleHeld, h.settleHeld, h.settle, h.settle, h.settleAgain, h.release,
		h.credit, h.declare, h.add, h.change, h.remove, h.addKey, h.revoke, h.subscribe, h.unsubscribe, h.reopen, h.export,
	}
	if !w.clock.isOwn {
		steps = append(steps, h.pass, h.prune, h.jump)
	}
	for range 600 {
		h.count++
		steps[h.random.IntN(len(steps))]()
		if h.Failed() {
			t.Fatalf("after step %d", h.count)
		}
	}
	h.compareAll()
	for name, u := range h.plain.users {
		if h.charged[name] != h.credited[name]-u.Balance.Amount {
			t.Errorf("%s was charged %d, credited %d, and has %d", name, h.charged[name], h.credited[name], u.Balance.Amount)
		}
	}
}

func (h *history) user() string        { return oneOf(h.random, "a", "b", "c") }
func (h *history) group() string       { return oneOf(h.random, "g", "h") }
func (h *history) id(of string) string { return fmt.Sprint(of, " ", h.count) }
func (h *history) amount() billing.USD { return billing.USD(h.random.Int64N(200)) }
func (h *history) key(u string) billing.Key {
	return key("sk-"+u+oneOf(h.random, "1", "2"), u, limits(h.amount()*2, h.amount()*5), func(k *billing.Key) {
		k.Created = epoch.Truncate(time.Second).Add(time.Duration(h.count) * time.Second)
	})
}

// same checks what one step came to with both ledgers.
func (h *history) same(what string, got, want error) bool {
	h.Helper()
	for _, known := range []error{
		billing.ErrUnknownUser, billing.ErrUserExists, billing.ErrUnknownKey, billing.ErrKeyExists, billing.ErrNotSubscribed,
	} {
		if errors.Is(got, known) && errors.Is(want, known) {
			return false
		}
	}
	if got != nil || want != nil {
		h.Errorf("%s: %v, want %v", what, got, want)
		return false
	}
	return true
}

// compare checks that both ledgers have the same of a user.
func (h *history) compare(user string) {
	h.Helper()
	want, wantErr := h.plain.User(h.Context(), user)
	got, err := h.l.User(h.Context(), user)
	h.same("User", err, wantErr)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		h.Errorf("user %s (-want +got):\n%s", user, diff)
	}
	for _, group := range []string{"g", "h"} {
		want, _ := h.plain.Subscription(h.Context(), user, group)
		wantSubscription(h.T, h.l, user, want)
	}
}

func (h *history) compareAll() {
	h.Helper()
	for _, user := range []string{"a", "b", "c"} {
		h.compare(user)
	}
	keys, _ := h.plain.Keys(h.Context(), "")
	wantKeys(h.T, h.l, "", keys...)
	if diff := cmp.Diff(List(h.T, h.plain, billing.RecordFilter{}), List(h.T, h.l, billing.RecordFilter{}), asGiven); diff != "" {
		h.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ids(h.records), ids(inOrder(h.T, h.l))); diff != "" {
		h.Errorf("records in the order of settling (-want +got):\n%s", diff)
	}
	wantUsage(h.T, h.l, billing.RecordFilter{User: h.user()}, billing.ByGroup, billing.ByDay)
}

func (h *history) hold() {
	user := h.user()
	c := &billing.HoldRequest{ID: h.id("claim"), User: user, Amount: h.amount(), Unlimited: h.random.IntN(5) == 0}
	c.MinAvailable = min(c.Amount, h.amount())
	if h.random.IntN(2) == 0 {
		c.KeyID = h.key(user).ID
	}
	if h.random.IntN(2) == 0 {
		c.Terms = &billing.Terms{
			Group: h.group(), Limits: billing.Limits{h.amount() * 2, h.amount() * 4, h.amount() * 8},
			Declared: h.random.IntN(2) == 0, Until: oneOf(h.random, time.Time{}, h.clock.Now().Add(-time.Hour), h.clock.Now().Add(time.Hour)),
		}
	}
	var refusals []*billing.Refusal
	if h.plain.user(user) != nil {
		_, refusals = h.plain.judge(c)
	}
	want, wantErr := h.plain.Hold(h.Context(), c)
	got, err := h.l.Hold(h.Context(), c)
	var refusal *billing.Refusal
	switch {
	case errors.As(err, &refusal):
		isAny := func(r *billing.Refusal) bool { return cmp.Equal(r, refusal) }
		if !slices.ContainsFunc(refusals, isAny) {
			h.Errorf("Hold: refused by %+v, want any of %+v, for %+v", refusal, refusals, c)
		}
	case len(refusals) > 0:
		h.Errorf("Hold: %v, %v, want any refusal of %+v, for %+v", got, err, refusals, c)
	case h.same("Hold", err, wantErr) && got != want:
		h.Errorf("Hold: %v, want %v", got, want)
	}
	h.compare(user)
}

// held is one of the hold requests that hold something, or nothing.
func (h *history) held() (memoryHold, bool) {
	ids := slices.Sorted(maps.Keys(h.plain.holds))
	if len(ids) == 0 {
		return memoryHold{}, false
	}
	return h.plain.holds[oneOf(h.random, ids...)], true
}

func (h *history) settleHeld() {
	held, ok := h.held()
	if !ok {
		return
	}
	r := &billing.Record{
		ID: held.ID, Time: h.clock.Now().Round(0), User: held.User, KeyID: held.KeyID,
		Billing: held.payer.Billing, UserNumber: held.payer.UserNumber,
	}
	if held.Terms != nil {
		r.Group = held.Terms.Group
	}
	h.keep(r)
}

// settle settles a record without a hold, now or late, of whoever has the name, or
// had it, or will.
func (h *history) settle() {
	user := h.user()
	r := &billing.Record{ID: h.id("record"), Time: h.clock.Now(), User: user, Group: h.group(), KeyID: h.key(user).ID}
	if h.random.IntN(3) == 0 {
		r.Time = r.Time.Round(0).Add(-time.Duration(h.random.Int64N(int64(72 * time.Hour))))
	}
	if u := h.plain.users[user]; u != nil {
		r.UserNumber = oneOf(h.random, 0, u.number, u.number, max(u.number-1, 1), u.number+1)
	}
	r.Billing = oneOf(h.random, billing.PaidFromBalance, billing.PaidByNobody, billing.PaidFromSubscription)
	h.keep(r)
}

func (h *history) keep(r *billing.Record) {
	r.Cost, r.Charged = h.amount(), h.amount()
	u, ended := h.plain.user(r.User), billing.USD(0)
	if u == nil || r.UserNumber != 0 && r.UserNumber != u.number {
		ended = r.Charged // what nobody is charged is forgiven
	}
	if h.same("Settle", h.l.Settle(h.Context(), r, nil), h.plain.Settle(h.Context(), r, nil)) {
		h.records = append(h.records, r)
		if r.Billing == billing.PaidFromBalance {
			h.charged[r.User] += r.Charged
			h.credited[r.User] += ended
		}
	}
	h.compare(r.User)
}

func (h *history) settleAgain() {
	if len(h.records) == 0 {
		return
	}
	r := *oneOf(h.random, h.records...)
	h.same("Settle", h.l.Settle(h.Context(), &r, nil), h.plain.Settle(h.Context(), &r, nil))
	h.compare(r.User)
}

func (h *history) release() {
	if held, ok := h.held(); ok {
		h.giveBack(held)
		h.compare(held.User)
	}
}

func (h *history) giveBack(held memoryHold) {
	h.l.Release(h.Context(), held.ID)
	h.plain.Release(h.Context(), held.ID)
}

// rest releases what a user holds, "" for everybody, before what leaves open what
// becomes of it.
func (h *history) rest(user string) {
	for _, held := range h.plain.holds {
		if user == "" || held.User == user {
			h.giveBack(held)
		}
	}
}

func (h *history) credit() {
	user := h.user()
	c := billing.Credit{ID: fmt.Sprint(h.random.IntN(30)), Amount: h.amount() - 60, Time: epoch}
	want, wantNew, wantErr := h.plain.Credit(h.Context(), user, c)
	got, isNew, err := h.l.Credit(h.Context(), user, c)
	if h.same("Credit", err, wantErr) {
		if got != want || isNew != wantNew {
			h.Errorf("Credit: %+v, %v; want %+v, %v", got, isNew, want, wantNew)
		}
		if isNew {
			h.credited[user] += c.Amount
		}
	}
	h.compare(user)
}

func (h *history) declare() {
	u := billing.User{Name: h.user(), Balance: h.amount() * 5, Unlimited: h.random.IntN(3) == 0}
	isCredited := !u.Unlimited && h.plain.added(u.Name) == nil && !h.plain.meet(u.Name).opened
	if h.same("Declare", h.l.Declare(h.Context(), []billing.User{u}), h.plain.Declare(h.Context(), []billing.User{u})) && isCredited {
		h.credited[u.Name] += u.Balance
	}
	h.compare(u.Name)
}

func (h *history) add() {
	u := billing.User{Name: h.user(), Balance: h.amount() * 5, Concurrency: h.random.IntN(9)}
	if h.same("AddUser", h.l.AddUser(h.Context(), u), h.plain.AddUser(h.Context(), u)) {
		h.credited[u.Name] += u.Balance
	}
	h.compare(u.Name)
}

func (h *history) change() {
	user := h.user()
	disabled, concurrency := h.random.IntN(2) == 0, h.random.IntN(9)
	change := billing.UserChange{Disabled: oneOf(h.random, nil, &disabled), Concurrency: oneOf(h.random, nil, &concurrency)}
	h.same("ChangeUser", h.l.ChangeUser(h.Context(), user, change), h.plain.ChangeUser(h.Context(), user, change))
	h.compare(user)
}

func (h *history) remove() {
	user := h.user()
	balance, _ := h.plain.Balance(h.Context(), user)
	if h.same("RemoveUser", h.l.RemoveUser(h.Context(), user), h.plain.RemoveUser(h.Context(), user)) {
		h.credited[user] -= balance.Amount
	}
	h.compare(user)
}

func (h *history) addKey() {
	k := h.key(h.user())
	h.same("AddKey", h.l.AddKey(h.Context(), k), h.plain.AddKey(h.Context(), k))
	h.login(k)
}

func (h *history) revoke() {
	k := h.key(h.user())
	h.rest(k.User)
	h.same("RevokeKey", h.l.RevokeKey(h.Context(), k.ID), h.plain.RevokeKey(h.Context(), k.ID))
	h.login(k)
}

func (h *history) login(k billing.Key) {
	want, _, wantErr := h.plain.Login(h.Context(), k.Digest)
	_, _, err := h.l.Login(h.Context(), k.Digest)
	if h.same("Login", err, wantErr) {
		wantLogin(h.T, h.l, want)
	}
}

func (h *history) subscribe() {
	user, group, until := h.user(), h.group(), epoch.Truncate(time.Second).Add(time.Duration(h.random.IntN(72))*time.Hour)
	h.same("Subscribe", h.l.Subscribe(h.Context(), user, group, until), h.plain.Subscribe(h.Context(), user, group, until))
	h.compare(user)
}

func (h *history) unsubscribe() {
	user, group := h.user(), h.group()
	h.rest(user)
	h.same("Unsubscribe", h.l.Unsubscribe(h.Context(), user, group), h.plain.Unsubscribe(h.Context(), user, group))
	h.compare(user)
}

func (h *history) pass() {
	h.restForClock()
	h.clock.Pass(h.T, time.Duration(h.random.Int64N(int64(20*time.Hour))))
}

// jump sets the clock ahead or back.
func (h *history) jump() {
	h.restForClock()
	h.clock.Jump(h.T, oneOf[time.Duration](h.random, -1, 1)*oneOf(h.random, jumps...))
	for range 2 { // a process that has another clock than its store hears of the day from the first answer
		h.moveWindows()
	}
	h.compareAll()
}

// moveWindows has everybody's windows looked at, since which of the days after a clock
// was set back they begin with, if not the first, is not promised.
func (h *history) moveWindows() {
	for _, user := range []string{"a", "b", "c"} {
		for i, group := range []string{"g", "h"} {
			c := &billing.HoldRequest{
				ID: h.id("look"), User: user, KeyID: key(fmt.Sprint("sk-", user, i+1), user).ID,
				Terms: &billing.Terms{Group: group, Declared: true},
			}
			for _, l := range []billing.Ledger{h.l, h.plain} {
				_, _ = l.Hold(h.Context(), c)
				l.Release(h.Context(), c.ID)
			}
		}
	}
}

// restForClock is for stores where holds come back when their time has passed.
func (h *history) restForClock() {
	if h.Shared {
		h.rest("")
	}
}

func (h *history) prune() {
	h.restForClock()
	h.clock.Pass(h.T, 2*time.Hour)
	before := h.clock.Now().Add(-100 * time.Hour)
	got, err := h.l.Prune(h.Context(), before)
	if got == 0 && h.Shared {
		return // by a clock that was set since, it may be too early
	}
	if want := h.plain.pruneDay(before); err != nil || got != want {
		h.Errorf("Prune(%v): %d, %v; want %d", before, got, err, want)
	}
	h.records = slices.DeleteFunc(h.records, func(r *billing.Record) bool { return h.plain.records[r.ID] == nil })
	h.compareAll()
}

// export compares what was settled between two moments.
func (h *history) export() {
	all := inOrder(h.T, h.l)
	if len(all) == 0 {
		return
	}
	i, j := h.random.IntN(len(all)), h.random.IntN(len(all))
	f := billing.RecordFilter{SettledFrom: all[min(i, j)].Settled, SettledTo: all[max(i, j)].Settled, User: oneOf(h.random, "", h.user())}
	want := []*billing.Record{}
	for _, r := range all[min(i, j):max(i, j)] {
		if f.User == "" || f.User == r.User {
			want = append(want, r)
		}
	}
	slices.SortFunc(want, newestFirst)
	if diff := cmp.Diff(ids(want), ids(List(h.T, h.l, f))); diff != "" {
		h.Errorf("%+v (-want +got):\n%s", f, diff)
	}
}

func (h *history) reopen() {
	h.rest("")
	close1(h.T, h.l)
	h.l = h.world.open(h.T)
	h.compareAll()
}
