package redisledger

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// budget is the name of what money is set aside on, which is its key less the
// namespace: a user, for the balance, a gateway key, or a subscription.
type budget string

func userBudget(name string) budget { return budget("user:" + name) }
func keyBudget(id string) budget    { return budget("key:" + id) }

// subscriptionBudget has a length in it, so that any text is a name.
func subscriptionBudget(user, group string) budget {
	return budget("subscription:" + strconv.Itoa(len(user)) + ":" + user + ":" + group)
}

// account is what a hold request is judged by. hold.lua judges by the same rules, so that
// all happens at one moment; why it refuses is found out here.
type account struct {
	user         user
	subscription subscription
	key          *limitedKey // nil: no key's limits count
}

// user is one as Redis has him. The version grows with each change of his balance.
type user struct {
	billing.Balance
	version, number int64
}

// windows are what is spent in them, and what is set aside.
type windows struct {
	billing.Windows
	held billing.USD
}

// subscription is one that the ledger has, or the windows of one that a config
// declares.
type subscription struct {
	windows
	subscribed bool
	until      time.Time // zero: no end
}

// limitedKey is a key that has limits.
type limitedKey struct {
	windows
	limits billing.Limits
}

// sums are amounts on each of the budgets that meet a hold request.
type sums struct{ user, key, subscription billing.USD }

// holdMore counts sums as if they were set aside too.
func (a *account) holdMore(s sums) {
	a.user.Held = a.user.Held.Plus(s.user)
	a.subscription.held = a.subscription.held.Plus(s.subscription)
	if a.key != nil {
		key := *a.key
		key.held = key.held.Plus(s.key)
		a.key = &key
	}
}

// judge is billing.Judge.
func (a *account) judge(c *billing.HoldRequest, now time.Time, loc *time.Location) (payer string, refusal *billing.Refusal) {
	budgets := billing.Budgets{Balance: a.user.Balance}
	if s := &a.subscription; c.Terms != nil {
		budgets.Subscription = billing.SubscriptionBudget{Subscribed: s.subscribed, Until: s.until, Windows: s.Moved(now, loc), Held: s.held}
	}
	if k := a.key; k != nil {
		budgets.Key = &billing.KeyBudget{Limits: k.limits, Windows: k.Moved(now, loc), Held: k.held}
	}
	return billing.Judge(c, &budgets, now)
}

// public is what a ledger shows of a subscription.
func (s *subscription) public(group string, now time.Time, loc *time.Location) billing.Subscription {
	return billing.Subscription{Group: group, Subscribed: s.subscribed, Until: s.until, Windows: s.Moved(now, loc).At(now)}
}

// reply reads what the scripts answer; the first thing that is wrong is its err.
type reply struct {
	list []any
	err  error
}

func newReply(answer any, length int) *reply {
	list, _ := answer.([]any)
	if len(list) != length {
		return &reply{make([]any, length), fmt.Errorf("an unknown answer of Redis: %T %v", answer, answer)}
	}
	return &reply{list: list}
}

// number is 0 where there is nothing.
func (r *reply) number(i int) int64 {
	if r.list[i] == nil || r.list[i] == "" {
		return 0
	}
	n, isNumber := r.list[i].(int64)
	if text, isText := r.list[i].(string); isText {
		parsed, err := strconv.ParseInt(text, 10, 64)
		n, isNumber = parsed, err == nil
	}
	if !isNumber && r.err == nil {
		r.err = fmt.Errorf("a number in Redis is %v", r.list[i])
	}
	return n
}

func (r *reply) text(i int) string {
	text, _ := r.list[i].(string)
	return text
}

// nanos is a time in nanoseconds since 1970; zero where there is none.
func (r *reply) nanos(i int) time.Time {
	if n := r.number(i); r.text(i) != "" {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

// micros is a time in microseconds since 1970.
func (r *reply) micros(i int) time.Time { return time.UnixMicro(r.number(i)) }

// sub reads a list within the list.
func (r *reply) sub(i, length int) *reply {
	s := newReply(r.list[i], length)
	if r.err == nil {
		r.err = s.err
	}
	return s
}

// userFields and subscriptionFields are those that budgets.lua gives of a user and a
// subscription.
var (
	userFields         = []string{"balance", "version", "held", "removed", "number"}
	subscriptionFields = []string{
		"subscribed", "until", "held", "daily", "weekly", "monthly", "daily_used", "weekly_used", "monthly_used",
	}
)

// parseUser reads what budgets.lua's money gives; known is false if there is no such
// user, or not any more.
func parseUser(answer any) (u user, known bool, err error) {
	r := newReply(answer, 5)
	u.Amount, u.version, u.Held, u.number = billing.USD(r.number(0)), r.number(1), billing.USD(r.number(2)), r.number(4)
	u.number = max(u.number, 1)
	return u, r.list[0] != nil && r.list[3] == nil, r.err
}

const windowFields = 3 + 2*len(billing.Windows{})

// spans are the names of windows in Redis.
var spans = [len(billing.Windows{})]string{"daily", "weekly", "monthly"}

// windows reads what budgets.lua's windows_of gives: what is set aside, the bounds of
// the windows, and what is used.
func (r *reply) windows() (w windows) {
	w.held = billing.USD(r.number(2))
	for i := range spans {
		text := r.text(3 + i)
		if text == "" {
			continue
		}
		var start, end int64
		if _, err := fmt.Sscanf(text, "%d %d", &start, &end); err != nil && r.err == nil {
			r.err = fmt.Errorf("a window in Redis is %q: %w", text, err)
		}
		used := billing.USD(r.number(3 + len(spans) + i))
		w.Windows[i] = billing.Window{Start: time.Unix(start, 0).UTC(), End: time.Unix(end, 0).UTC(), Used: used}
	}
	return w
}

// parseSubscription reads whether there is one, its end, and its windows.
func parseSubscription(answer any) (subscription, error) {
	r := newReply(answer, windowFields)
	return subscription{subscribed: r.list[0] != nil, until: r.nanos(1), windows: r.windows()}, r.err
}

// parseLimitedKey reads a key's user and limits, and its windows; nil for none.
func parseLimitedKey(answer any) (*limitedKey, error) {
	if answer == nil {
		return nil, nil
	}
	r := newReply(answer, windowFields)
	limits, err := parseLimits(r.text(1))
	if r.err == nil {
		r.err = err
	}
	return &limitedKey{limits: limits, windows: r.windows()}, r.err
}

// bounds has the windows that begin with a day as arguments of scripts: their begin and
// end, in seconds since 1970. It remembers those of the last that was asked for.
type bounds struct{ last atomic.Pointer[dayArguments] }

type dayArguments struct {
	billing.Window
	args []any
}

// arguments are those of the day of a time.
func (b *bounds) arguments(at time.Time, loc *time.Location) []any {
	if last := b.last.Load(); last != nil && !at.Before(last.Start) && at.Before(last.End) {
		return last.args
	}
	windows := billing.WindowsFrom(at, loc)
	now := &dayArguments{Window: windows[billing.Daily]}
	for _, w := range windows {
		now.args = append(now.args, strconv.FormatInt(w.Start.Unix(), 10)+" "+strconv.FormatInt(w.End.Unix(), 10))
	}
	b.last.Store(now)
	return now.args
}

func formatLimits(limits billing.Limits) string {
	if limits == (billing.Limits{}) {
		return ""
	}
	return fmt.Sprintf("%d %d %d", max(limits[billing.Daily], 0), max(limits[billing.Weekly], 0), max(limits[billing.Monthly], 0))
}

func parseLimits(text string) (limits billing.Limits, err error) {
	if text == "" {
		return limits, nil
	}
	if _, err := fmt.Sscanf(text, "%d %d %d", &limits[0], &limits[1], &limits[2]); err != nil {
		return limits, fmt.Errorf("a key's limits in Redis are %q: %w", text, err)
	}
	return limits, nil
}
