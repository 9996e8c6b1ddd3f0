"""Films: frames in, restored frames out, everything else as it was. Needs the extra ``video``, which is PyAV.

    frames -> tracking -> restoring (crops of several frames at once) -> stabilising -> segments -> film

frames       reads and makes frames: pixels, upright, and the way back into the film's own format
tracking     which face is which from frame to frame, and landmarks that do not tremble
stabilising  restored faces that do not flicker
restoring    the way of frames through a restorer
segments     frames written in pieces, each whole, and joined with the film's other streams
film         a whole film, from file to file

Apart from frames and segments, nothing here needs PyAV.
"""
