package simulator_test

import (
	"fmt"
	"log"
	"net/http"
	"strings"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func Example() {
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	sim.Queue("key-a", simulator.Reply{Status: 529})

	for range 2 {
		body := `{"model":"claude-opus-5-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`
		r, err := http.NewRequest(http.MethodPost, sim.URL+"/v1/messages", strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		r.Header.Set("X-Api-Key", "key-a")
		r.Header.Set("Anthropic-Version", "2023-06-01")
		response, err := sim.Client().Do(r)
		if err != nil {
			log.Fatal(err)
		}
		response.Body.Close()
		fmt.Println(response.StatusCode)
	}
	fmt.Println(sim.Account("key-a").Messages, "messages, at most", sim.Account("key-a").MaxInFlight, "at a time")
	// Output:
	// 529
	// 200
	// 2 messages, at most 1 at a time
}
