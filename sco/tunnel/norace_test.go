//go:build !race

package tunnel_test

const raceDetector = false
