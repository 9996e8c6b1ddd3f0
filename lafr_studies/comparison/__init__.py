"""Several restorers side by side on the same faces: results, measurements, tables and one page of pictures.

inputs     photos, their faces and references: the same for every method
store      what is on disk already, so that an interrupted comparison continues
worker     one method in a process of its own: restores, times, counts memory
methods    runs the workers; takes over folders of results
measure    metrics of every face
report     means, intervals, paired differences; Markdown, CSV and JSON
page       one HTML file that needs nothing beside it
"""
