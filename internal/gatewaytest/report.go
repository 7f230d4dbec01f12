package gatewaytest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Within waits until done is true, and fails the test if that takes longer.
func Within(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// List writes at most ten of many, a line each.
func List[T any](all []T) string {
	var out strings.Builder
	for i, one := range all {
		if i == 10 {
			fmt.Fprintf(&out, "\n\tand %d more", len(all)-i)
			break
		}
		fmt.Fprintf(&out, "\n\t%v", one)
	}
	return out.String()
}
