package sqliteledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
)

// history is a ledger that random things happen to, beside a plain model of its
// money and its records.
type history struct {
	*Ledger
	clock    time.Time
	balances map[string]*modelUser
	records  map[string]*billing.Record
	settled  map[string]bool // those that were pruned too
}

// modelUser is whoever has a name, or will have it next.
type modelUser struct {
	amount           billing.USD
	number           int64
	added, isRemoved bool
	isOpened         bool
	credits          map[string]bool
}

var (
	someNames  = rapid.SampledFrom([]string{"a", "b", "c"})
	someGroups = rapid.SampledFrom([]string{"g", "h", ""})
	someModels = rapid.SampledFrom([]string{"m", "n"})
	someMoney  = rapid.Map(rapid.Int64Range(0, 1e12), func(n int64) billing.USD { return billing.USD(n) })
	// someTimes are within 5 days, often at their ends.
	someTimes = rapid.Custom(func(t *rapid.T) time.Time {
		midnight := time.Date(2026, 10, 30+rapid.IntRange(0, 4).Draw(t, "day"), 0, 0, 0, 0, time.UTC)
		return midnight.Add(rapid.OneOf(
			rapid.SampledFrom([]time.Duration{0, 1, -1}),
			rapid.Map(rapid.Int64Range(0, int64(24*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
		).Draw(t, "of day"))
	})
)

func (h *history) model(name string) *modelUser {
	if h.balances[name] == nil {
		h.balances[name] = &modelUser{number: 1, credits: map[string]bool{}}
	}
	return h.balances[name]
}

func (h *history) isKnown(name string) bool {
	return h.balances[name] != nil && !h.balances[name].isRemoved
}

func (h *history) isAdded(name string) bool { return h.isKnown(name) && h.balances[name].added }

// want fails unless the error is the one that is due, or nil if none is.
func want(t *rapid.T, what string, err error, isDue bool, due error) {
	t.Helper()
	if isDue && !errors.Is(err, due) || !isDue && err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (h *history) declare(t *rapid.T) {
	u := billing.User{Name: someNames.Draw(t, "user"), Unlimited: rapid.Bool().Draw(t, "unlimited"), Balance: someMoney.Draw(t, "balance")}
	want(t, "Declare", h.Declare(context.Background(), []billing.User{u}), false, nil)
	if h.isAdded(u.Name) {
		return
	}
	m := h.model(u.Name)
	m.isRemoved = false
	if !u.Unlimited && !m.isOpened {
		m.amount += u.Balance
		m.isOpened = true
	}
}

func (h *history) add(t *rapid.T) {
	u := billing.User{Name: someNames.Draw(t, "user"), Balance: someMoney.Draw(t, "balance")}
	isThere := h.isAdded(u.Name)
	want(t, "AddUser", h.AddUser(context.Background(), u), isThere, billing.ErrUserExists)
	if !isThere {
		m := h.model(u.Name)
		m.added, m.isRemoved = true, false
		m.amount += u.Balance
	}
}

func (h *history) remove(t *rapid.T) {
	name := someNames.Draw(t, "user")
	want(t, "RemoveUser", h.RemoveUser(context.Background(), name), !h.isAdded(name), billing.ErrUnknownUser)
	if h.isAdded(name) {
		h.balances[name] = &modelUser{number: h.model(name).number + 1, isRemoved: true, credits: map[string]bool{}}
	}
}

func (h *history) credit(t *rapid.T) {
	name := someNames.Draw(t, "user")
	c := billing.Credit{ID: rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id"), Time: someTimes.Draw(t, "time")}
	c.Amount = someMoney.Draw(t, "amount") - 3e11
	_, credited, err := h.Credit(context.Background(), name, c)
	want(t, "Credit", err, !h.isKnown(name), billing.ErrUnknownUser)
	if h.isKnown(name) && credited == h.model(name).credits[c.ID] {
		t.Fatalf("Credit: credited is %v", credited)
	}
	if credited {
		h.model(name).credits[c.ID] = true
		h.model(name).amount += c.Amount
	}
}

func (h *history) settle(t *rapid.T) {
	r := ledgertest.Example(fmt.Sprint(rapid.IntRange(1, 60).Draw(t, "id")))
	r.User, r.Time = someNames.Draw(t, "user"), someTimes.Draw(t, "time")
	r.Group, r.Model = someGroups.Draw(t, "group"), someModels.Draw(t, "model")
	r.KeyID, r.Account = someNames.Draw(t, "key"), someNames.Draw(t, "account")
	r.Charged, r.Cost = someMoney.Draw(t, "charged"), someMoney.Draw(t, "cost")
	r.Billing = rapid.SampledFrom([]string{
		billing.PaidFromBalance, billing.PaidFromSubscription, billing.PaidByNobody,
	}).Draw(t, "billing")
	if h.settled[r.ID] && h.records[r.ID] == nil {
		return // deleted: it would be new
	}
	r.UserNumber = rapid.Int64Range(0, 3).Draw(t, "number")
	paid := r.Billing == billing.PaidFromBalance
	err := h.Settle(context.Background(), r, nil)
	want(t, "Settle", err, paid && h.balances[r.User] == nil && !h.settled[r.ID], billing.ErrUnknownUser)
	if err != nil || h.settled[r.ID] {
		return
	}
	h.settled[r.ID], h.records[r.ID] = true, r
	if paid && h.isKnown(r.User) && (r.UserNumber == 0 || r.UserNumber == h.model(r.User).number) {
		h.model(r.User).amount -= r.Charged
	}
}

func (h *history) changeKeys(t *rapid.T) {
	k := billing.Key{ID: someNames.Draw(t, "key"), User: someNames.Draw(t, "user")}
	k.Digest[0] = k.ID[0]
	k.Limits[billing.Daily] = billing.USD(rapid.SampledFrom([]int64{0, 1e12}).Draw(t, "limit"))
	if rapid.Bool().Draw(t, "revoke") {
		if err := h.RevokeKey(context.Background(), k.ID); err != nil && !errors.Is(err, billing.ErrUnknownKey) {
			t.Fatal(err)
		}
		return
	}
	err := h.AddKey(context.Background(), k)
	if err != nil && !errors.Is(err, billing.ErrKeyExists) && (h.isKnown(k.User) || !errors.Is(err, billing.ErrUnknownUser)) {
		t.Fatal(err)
	}
}

func (h *history) changeSubscriptions(t *rapid.T) {
	user, group := someNames.Draw(t, "user"), someGroups.Draw(t, "group")
	if rapid.Bool().Draw(t, "unsubscribe") {
		if err := h.Unsubscribe(context.Background(), user, group); err != nil && !errors.Is(err, billing.ErrNotSubscribed) {
			t.Fatal(err)
		}
		return
	}
	err := h.Subscribe(context.Background(), user, group, someTimes.Draw(t, "until"))
	want(t, "Subscribe", err, !h.isKnown(user), billing.ErrUnknownUser)
}

func (h *history) prune(t *rapid.T) {
	before := someTimes.Draw(t, "before")
	n, err := h.Prune(context.Background(), before)
	if err != nil {
		t.Fatal(err)
	}
	var end time.Time
	for _, r := range h.records {
		if dayEnd := h.days.Start(h.days.Day(r.Time) + 1); end.IsZero() || dayEnd.Before(end) {
			end = dayEnd
		}
	}
	all := len(h.records)
	if !end.After(before) && !end.After(h.clock) {
		maps.DeleteFunc(h.records, func(_ string, r *billing.Record) bool { return r.Time.Before(end) })
	}
	if n != all-len(h.records) {
		t.Fatalf("%d records were deleted, want %d", n, all-len(h.records))
	}
}

// look draws a filter and compares what there is, and its sums.
func (h *history) look(t *rapid.T) {
	var f billing.RecordFilter
	for _, field := range []struct {
		at   *string
		from *rapid.Generator[string]
	}{{&f.User, someNames}, {&f.KeyID, someNames}, {&f.Account, someNames}, {&f.Group, someGroups}, {&f.Model, someModels}} {
		if rapid.IntRange(0, 3).Draw(t, "filters") == 0 {
			*field.at = field.from.Draw(t, "name")
		}
	}
	for _, bound := range []*time.Time{&f.From, &f.To} {
		if rapid.Bool().Draw(t, "bounded") {
			*bound = someTimes.Draw(t, "bound")
		}
	}
	var listed []*billing.Record
	if err := h.Records(context.Background(), f, func(r *billing.Record) bool { listed = append(listed, r); return true }); err != nil {
		t.Fatal(err)
	}
	wanted := slices.SortedFunc(maps.Values(h.records), func(a, b *billing.Record) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
	})
	wanted = slices.DeleteFunc(wanted, func(r *billing.Record) bool { return !matches(&f, r) })
	if diff := gocmp.Diff(wanted, listed, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(billing.Record{}, "Settled")); diff != "" {
		t.Fatalf("Records(%+v) (-want +got):\n%s", f, diff)
	}
	by := rapid.SliceOfNDistinct(rapid.SampledFrom([]billing.Dimension{
		billing.ByUser, billing.ByKey, billing.ByAccount, billing.ByGroup, billing.ByModel, billing.ByDay,
	}), 0, 3, rapid.ID[billing.Dimension]).Draw(t, "by")
	var sums []billing.UsageRow
	if err := h.Usage(context.Background(), f, by, func(r *billing.UsageRow) bool { sums = append(sums, *r); return true }); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(sumUp(listed, by, h.days), sums, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("Usage(%+v, %v) (-want +got):\n%s", f, by, diff)
	}
}

func matches(f *billing.RecordFilter, r *billing.Record) bool {
	is := func(want, name string) bool { return want == "" || want == name }
	return is(f.User, r.User) && is(f.KeyID, r.KeyID) && is(f.Account, r.Account) && is(f.Group, r.Group) && is(f.Model, r.Model) &&
		(f.From.IsZero() || !r.Time.Before(f.From)) && (f.To.IsZero() || r.Time.Before(f.To))
}

func sumUp(records []*billing.Record, by []billing.Dimension, days calendar) []billing.UsageRow {
	rows := map[string]*billing.UsageRow{}
	if len(by) == 0 {
		rows[""] = new(billing.UsageRow)
	}
	for _, r := range records {
		var row billing.UsageRow
		var place string
		for _, d := range by {
			at, name := &row.User, r.User
			switch d {
			case billing.ByKey:
				at, name = &row.KeyID, r.KeyID
			case billing.ByAccount:
				at, name = &row.Account, r.Account
			case billing.ByGroup:
				at, name = &row.Group, r.Group
			case billing.ByModel:
				at, name = &row.Model, r.Model
			case billing.ByDay:
				at, name = &row.Day, billing.DayText(days.Day(r.Time))
			}
			*at = name
			place += name + "\x00"
		}
		if rows[place] == nil {
			rows[place] = &row
		}
		rows[place].Add(r)
	}
	var list []billing.UsageRow
	for _, place := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, *rows[place])
	}
	return list
}

// sumsBefore sums up the records of before now by the ledger's days.
func (h *history) sumsBefore(t *rapid.T) []billing.UsageRow {
	var before []*billing.Record
	for _, r := range h.records {
		if r.Time.Before(h.clock) {
			before = append(before, r)
		}
	}
	return sumUp(before, []billing.Dimension{billing.ByDay}, h.days)
}

func (h *history) checkMoney(t *rapid.T) {
	for name, m := range h.balances {
		got, err := h.Balance(context.Background(), name)
		want(t, "Balance", err, m.isRemoved, billing.ErrUnknownUser)
		if wanted := (billing.Balance{Amount: m.amount}); err == nil && got != wanted {
			t.Fatalf("Balance(%s) = %+v, want %+v", name, got, wanted)
		}
	}
}

// TestAnyHistory compares a ledger with a plain model of it, and its memory with its
// database.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "ledger")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		h := &history{
			clock: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC), balances: map[string]*modelUser{},
			records: map[string]*billing.Record{}, settled: map[string]bool{},
		}
		reopen := func(zone string) *Ledger {
			loc, err := time.LoadLocation(zone)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Open(context.Background(), dir, Options{Location: loc, now: func() time.Time { return h.clock }})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		h.Ledger = reopen("UTC")
		defer func() { h.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"declare": h.declare, "add user": h.add, "remove user": h.remove, "credit": h.credit,
			"settle": h.settle, "settle one more": h.settle, "settle another": h.settle,
			"keys": h.changeKeys, "subscriptions": h.changeSubscriptions,
			"prune": h.prune, "look": h.look, "check": func(t *rapid.T) { check(t, h.Ledger) },
			"reopen": func(t *rapid.T) {
				if err := h.Close(); err != nil {
					t.Fatal(err)
				}
				before := h.sumsBefore(t)
				h.Ledger = reopen(rapid.SampledFrom([]string{"UTC", "UTC", "Asia/Shanghai", "America/Sao_Paulo", "Pacific/Kiritimati"}).Draw(t, "zone"))
				check(t, h.Ledger)
				if diff := gocmp.Diff(before, h.sumsBefore(t)); diff != "" {
					t.Fatalf("days of before have changed (-before +after):\n%s", diff)
				}
			},
			"set the clock": func(t *rapid.T) { h.clock = someTimes.Draw(t, "clock") },
			"":              h.checkMoney,
		})
	})
}
