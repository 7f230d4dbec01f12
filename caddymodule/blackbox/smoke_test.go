package blackbox_test
import ("testing";"github.com/sub2api/caddy-sub2api/upstream/simulator")
func TestSmoke(t *testing.T) {
	for range 3 {
	g := serve(t, simulator.Config{}, mainAccount+alice)
	a := g.say("claude-sonnet-5-5", true)
	t.Logf("%d %v %s", a.status, a.header, a.body)
	t.Log(g.balance())
	for _, r := range g.records() { t.Logf("%+v", r) }
	}
}
